"""One request to the user service: users in, their entries out, or how it failed and what may be at fault."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Sequence
from urllib.parse import quote

import httpx
import msgspec

from enrichment.caches.base import Entry
from enrichment.enrichers.user import SERVICE_ERROR, TIMEOUT, UserSettings
from enrichment.enrichers.user import answers as user_answers
from enrichment.enrichers.user.answers import ABSENT, FAILED, Unreadable
from enrichment.enrichers.user.tries import NO_BATCH_ENDPOINT, AskSingly, Doubtful, NobodyNamed, Transient, refusal
from enrichment.errors import SourceUnavailable
from enrichment.sources.connections import HttpOptions
from enrichment.sources.http_client import Garbled, HttpClient, Reply, TooLong, reason_of

log = logging.getLogger(__name__)

# An answer may take this much for each user that was asked for; what is longer is not read.
BYTES_PER_USER = 16 * 1024
# As a path segment these name another resource, so a service cannot be asked for a user of that name.
UNADDRESSABLE = frozenset({"", ".", ".."})
# Ids that servers and gateways rewrite in an address, percent-encoded or not, are asked for in a body, and so are long
# ones: servers accept addresses of 8 KB or less.
MANGLED = re.compile(r"[/\\%?#;\x00-\x1f\x7f]")
LONGEST_SEGMENT = 2_000
LONGEST_PATH = 8_000
# Failures in a row that may be a request's fault, for each request at once: after these they are the service's.
DOUBTS = 8


class UserRequests:
    """Asks for users, one request a call: many in a batch, a single one by its address. For one event loop."""

    def __init__(self, base_url: str, token: str | None, settings: UserSettings, options: HttpOptions) -> None:
        self._base_url = base_url
        self._http = HttpClient(base_url, token, options, settings.concurrency, "the user service")
        self._most_doubts = DOUBTS * settings.concurrency
        self._has_batch = settings.batch_size > 1
        self._doubts = 0  # since the service last answered

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def ask(self, user_ids: Sequence[str], seconds: float) -> dict[str, Entry]:
        """An entry for each of these users, in about that time. What else happens is raised, as `user_tries` has it."""
        try:
            entries = await self._ask(user_ids, seconds)
        except Doubtful:
            self._doubts += 1
            raise
        self._doubts = 0
        return entries

    async def _ask(self, user_ids: Sequence[str], seconds: float) -> dict[str, Entry]:
        if len(user_ids) > 1 or (self._has_batch and is_odd(user_ids[0])):
            return await self._ask_batch(user_ids, seconds)
        return await self._ask_one(user_ids[0], seconds)

    async def _ask_one(self, user_id: str, seconds: float) -> dict[str, Entry]:
        if user_id in UNADDRESSABLE:
            return {user_id: ABSENT}
        path = f"/api/users/{quote(user_id, safe='')}"
        if len(path) > LONGEST_PATH:
            raise self._doubt(f"GET {self._base_url}/api/users/...: an id of {len(user_id)} characters fits no address")
        reply = await self._exchange("GET", path, BYTES_PER_USER, seconds, {404})
        try:
            if reply.status == 404:
                return {user_id: user_answers.read_absence(reply.body, reply.content_type, user_id)}
            entry = user_answers.read_profile(reply.body, user_id)
        except Unreadable as lie:
            if reply.status == 404 and is_odd(user_id):  # which may be nobody's fault but the id's
                raise self._doubt(f"GET {self._base_url}{path} answered {lie}") from lie
            raise self._unbelieved(f"GET {self._base_url}{path}", lie) from lie
        return self._believed({user_id: entry}, reply)

    async def _ask_batch(self, user_ids: Sequence[str], seconds: float) -> dict[str, Entry]:
        request, path = f"POST {self._base_url}/api/users/batch", "/api/users/batch"
        content = msgspec.json.encode({"user_ids": user_ids})
        # An id stands in the answer twice, perhaps escaped.
        max_bytes = BYTES_PER_USER * len(user_ids) + 12 * len(content)
        started = time.monotonic()
        reply = await self._exchange("POST", path, max_bytes, seconds, NO_BATCH_ENDPOINT, content)
        if reply.status in NO_BATCH_ENDPOINT:
            left = max(0.0, seconds - (time.monotonic() - started))
            proof = await self._prove_alive(user_ids, left, reply, request)
            if self._has_batch:
                log.warning("user_api.no_batch_endpoint url=%s", self._base_url)
            self._has_batch = False
            raise AskSingly(proof)
        try:
            return self._believed(user_answers.read_batch(reply.body, user_ids), reply)
        except Unreadable as lie:
            raise self._unbelieved(request, lie) from lie

    async def _prove_alive(
        self, user_ids: Sequence[str], seconds: float, reply: Reply, request: str
    ) -> dict[str, Entry]:
        """A single user's answer, as proof that the server without a batch endpoint is the user service."""
        one = next((id_ for id_ in user_ids if not is_odd(id_)), None)
        if one is None or not user_answers.is_json_object(reply.body, reply.content_type):
            raise Transient(
                SERVICE_ERROR,
                f"{request} answered {reply.status}, not in the service's JSON; if the service has no batch endpoint, "
                "set USER_SERVICE_BATCH_SIZE=1",
            )
        try:
            return await self._ask_one(one, seconds)
        except (Doubtful, NobodyNamed) as lie:
            raise Transient(lie.reason, f"{request} answered {reply.status}, and {lie.detail}") from lie

    def _believed(self, entries: dict[str, Entry], reply: Reply) -> dict[str, Entry]:
        """These entries, unless the answer names none of the users: then another server has answered."""
        if all(entry is FAILED for entry in entries.values()) and not user_answers.is_about(reply.body, list(entries)):
            raise NobodyNamed(f"{self._base_url}/api/users answered 200 for none of the users", entries)
        return entries

    async def _exchange(
        self, method: str, path: str, max_bytes: int, seconds: float, expected: Collection[int],
        content: bytes | None = None,
    ) -> Reply:  # fmt: skip
        """An answer whose status is 200 or expected; every other outcome is raised."""
        request, wanted = f"{method} {self._base_url}{path}", {200, *expected}
        try:
            reply = await self._http.ask(
                method, path, content=content, wanted=wanted, max_bytes=max_bytes, seconds=seconds
            )
        except TimeoutError as error:
            raise Transient(TIMEOUT, f"{request}: no answer within {seconds:.3g} s") from error
        except TooLong as long:
            raise self._doubt(f"{request} answered {long}") from long
        # ValueError: httpx parses the address of a redirect that is not followed, and its host may be invalid.
        except (httpx.HTTPError, httpx.InvalidURL, Garbled, ValueError) as error:
            raise Transient(SERVICE_ERROR, f"{request}: {reason_of(error)}") from error
        if reply.status in wanted:
            return reply
        refused = refusal(reply, request)
        raise self._doubt(refused.detail, refused) if isinstance(refused, Doubtful) else refused

    def _unbelieved(self, request: str, lie: Unreadable) -> SourceUnavailable:
        detail = f"{request} answered with what is no answer: {lie}"
        if lie.is_garbled:
            return self._doubt(detail, Doubtful(SERVICE_ERROR, detail, may_pass=True))
        return Transient(SERVICE_ERROR, detail)

    def _doubt(self, detail: str, doubtful: Doubtful | None = None) -> SourceUnavailable:
        """A failure that may be the request's fault; the service's, once there were many of these in a row."""
        if self._doubts >= self._most_doubts:
            return SourceUnavailable(SERVICE_ERROR, detail)
        return doubtful or Doubtful(SERVICE_ERROR, detail)


def is_odd(user_id: str) -> bool:
    """Whether an id does not belong in an address."""
    mangled = user_id in UNADDRESSABLE or MANGLED.search(user_id) is not None
    return mangled or len(quote(user_id, safe="")) > LONGEST_SEGMENT
