"""Profile from user: `user_id` in, the `user_` columns out."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from enrichment.caches.base import KeyLookup
from enrichment.caches.entries import Answers
from enrichment.enrichers.base import Enrichment, ask, join
from enrichment.messages import USER_COLUMNS, USER_ID, Profile, Source


class UserEnricher:
    """Profile from user id. A user that the service does not know leaves the columns null."""

    name: str = Source.USER.value
    reads: tuple[str, ...] = (USER_ID,)
    writes: tuple[str, ...] = USER_COLUMNS

    def __init__(self, lookup: KeyLookup) -> None:
        self._profiles = lookup

    def look_up(self, events: pd.DataFrame) -> Answers:
        """See `Enricher`."""
        return ask(self._profiles, events[USER_ID])

    def enrich(self, events: pd.DataFrame, answers: Answers, added: Mapping[str, Enrichment]) -> Enrichment:  # noqa: ARG002 - the protocol's
        """See `Enricher`; needs nothing of earlier enrichers."""
        return join(events[USER_ID], answers, Profile)
