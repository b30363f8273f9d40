"""How a request to the user service can fail, what that means for the service, and when it is tried again."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Mapping

import msgspec
import urllib3
from tenacity import RetryCallState
from tenacity.stop import stop_base

from enrichment.caches.base import Entry
from enrichment.enrichers.user import SERVICE_ERROR, UserSettings
from enrichment.errors import SourceUnavailable
from enrichment.sources.connections import HttpOptions, normalized
from enrichment.sources.http_client import Reply

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
NO_BATCH_ENDPOINT = frozenset({404, 405, 501})
# A healthy service's answers to a request that it refuses: too large, too long, or an id of another form.
TOO_LARGE = 413
DOUBTFUL = frozenset({400, TOO_LARGE, 414, 422, 431})
# Headers that identify the client and do not affect the answer.
_CREDENTIALS = re.compile(r"auth|cookie|key|secret|signature|token", re.IGNORECASE)


class Transient(SourceUnavailable):
    """A failure that may have passed at the next try; `retry_after` is in seconds, if the service named a time."""

    retry_after: float | None = None


class Throttled(Transient):
    """The service is alive and asks for a pause."""


class Doubtful(SourceUnavailable):
    """A failure that may be the fault of the request, or of one user in it: a smaller one may fare better."""

    def __init__(self, reason: str, detail: str, *, may_pass: bool = False, is_too_large: bool = False) -> None:
        super().__init__(reason, detail)
        self.may_pass = may_pass
        self.is_too_large = is_too_large


class NobodyNamed(SourceUnavailable):
    """An answer that names none of the users that were asked for: a failure of the service, for each of them."""

    def __init__(self, detail: str, entries: Mapping[str, Entry]) -> None:
        super().__init__(SERVICE_ERROR, detail)
        self.entries = entries


class AskSingly(Exception):
    """The service has no batch endpoint; these entries prove that it is alive."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        super().__init__("no batch endpoint")
        self.entries = entries


class StopBefore(stop_base):
    """Stop when the next pause would end past the deadline (monotonic seconds)."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __call__(self, retry_state: RetryCallState) -> bool:
        """See `stop_base`."""
        return time.monotonic() + retry_state.upcoming_sleep >= self._deadline


def may_pass(failure: BaseException) -> bool:
    """Whether the same request may fare better."""
    return isinstance(failure, Transient) or (isinstance(failure, Doubtful) and failure.may_pass)


def pause_seconds(state: RetryCallState, settings: UserSettings) -> float:
    """The pause that the service asks for, within bounds; else twice the last pause, with jitter.

    Not urllib3's `Retry`: it makes the second try at once, and gives up on a `Retry-After` that it cannot read.
    """
    failure = state.outcome.exception() if state.outcome is not None else None
    if isinstance(failure, Transient) and failure.retry_after is not None:
        return min(failure.retry_after, settings.retry_after_max_sec)
    return settings.backoff_sec * 2.0 ** (state.attempt_number - 1) * random.uniform(0.5, 1.5)


def refusal(reply: Reply, request: str) -> SourceUnavailable:
    """The exception for a status that is not an answer."""
    status = reply.status
    detail = f"{request} answered {status}"
    if status in (401, 403):
        detail += ": the token is missing or not accepted"
    if status in DOUBTFUL:
        return Doubtful(SERVICE_ERROR, detail, is_too_large=status == TOO_LARGE)
    if status not in TRANSIENT:
        return SourceUnavailable(SERVICE_ERROR, detail)
    transient = (Throttled if status == 429 else Transient)(SERVICE_ERROR, detail)
    transient.retry_after = retry_after_seconds(reply.retry_after)
    return transient


def retry_after_seconds(text: str | None) -> float | None:
    """Seconds of a `Retry-After` header, a number or a date; None when it is missing or unreadable."""
    if text is None:
        return None
    try:
        return urllib3.Retry().parse_retry_after(text)
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return None


def version_of(base_url: str, options: HttpOptions) -> str:
    """Twelve hex digits that identify a service: its address, and the headers that may affect its answers.

    Credentials are left out: a new token does not change profiles.
    """
    headers = {name.lower(): value for name, value in options.headers.items() if not _CREDENTIALS.search(name)}
    told = msgspec.json.encode([normalized(base_url), headers], order="sorted")
    return hashlib.sha256(told).hexdigest()[:12]
