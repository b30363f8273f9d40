"""Place from address: `source_ip` in, the `geo_` columns out."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from enrichment.caches.base import KeyLookup
from enrichment.caches.entries import Answers
from enrichment.enrichers.base import Enrichment, ask, join
from enrichment.messages import GEO_COLUMNS, SOURCE_IP, Place, Source


class GeoEnricher:
    """Place from address. An address that no database knows leaves the columns null."""

    name: str = Source.GEO.value
    reads: tuple[str, ...] = (SOURCE_IP,)
    writes: tuple[str, ...] = GEO_COLUMNS

    def __init__(self, lookup: KeyLookup) -> None:
        self._places = lookup

    def look_up(self, events: pd.DataFrame) -> Answers:
        """See `Enricher`."""
        return ask(self._places, events[SOURCE_IP])

    def enrich(self, events: pd.DataFrame, answers: Answers, added: Mapping[str, Enrichment]) -> Enrichment:  # noqa: ARG002 - the protocol's
        """See `Enricher`; needs nothing of earlier enrichers."""
        return join(events[SOURCE_IP], answers, Place)
