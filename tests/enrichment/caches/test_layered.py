"""The tiers together: who is asked, what is served, and what is kept, when they answer and when they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from enrichment.caches.base import Entry, State, Tier
from enrichment.caches.layered import MOST_KEYS, LayeredLookup, TimeToLive
from enrichment.caches.memory import MemoryLayer
from enrichment.enrichers.testing import FixedClock
from enrichment.enrichers.user import Profile
from enrichment.errors import LayerUnavailable, SourceUnavailable

TTL = TimeToLive(found_seconds=3_600, absent_seconds=600, failed_seconds=30)
PREMIUM, FREE = Profile("premium", 365, "Acme Corp"), Profile("free", 10, None)


class Table:
    """A lasting layer over a dict: returns expired entries too, and is down when told."""

    tier = Tier.POSTGRES

    def __init__(self) -> None:
        self.rows: dict[str, Entry] = {}
        self.asked: list[list[str]] = []
        self.written: list[list[str]] = []
        self.down_for: set[str] = set()

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        self.asked.append(list(keys))
        if "get" in self.down_for:
            raise LayerUnavailable("connection refused")
        return {key: self.rows[key] for key in keys if key in self.rows}

    def put_many(self, entries: Mapping[str, Entry]) -> None:
        self.written.append(list(entries))
        if "put" in self.down_for:
            raise LayerUnavailable("connection refused")
        self.rows.update(entries)


class Service:
    """A source over a dict of profiles; a key without one is absent. Fails for all, for some, or leaves some out."""

    version = ""

    def __init__(self, clock: FixedClock) -> None:
        self.profiles: dict[str, Profile] = {}
        self.asked: list[list[str]] = []
        self.down = False
        self.fails_for: set[str] = set()
        self.leaves_out: set[str] = set()
        self.takes_seconds = 0.0
        self._clock = clock

    def fetch_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        self.asked.append(list(keys))
        self._clock.advance(self.takes_seconds)
        if self.down:
            raise SourceUnavailable("user-lookup-timeout", "no answer within 5 s")
        return {key: self._entry(key) for key in keys if key not in self.leaves_out}

    def _entry(self, key: str) -> Entry:
        if key in self.fails_for:
            return Entry(State.FAILED, reason="user-service-error")
        if key in self.profiles:
            return Entry(State.FOUND, self.profiles[key])
        return Entry(State.ABSENT, reason="user-not-found")


@pytest.fixture
def table() -> Table:
    """An empty table."""
    return Table()


@pytest.fixture
def service(clock: FixedClock) -> Service:
    """A service that knows user a and user b."""
    service = Service(clock)
    service.profiles = {"a": PREMIUM, "b": FREE}
    return service


Process = Callable[[], LayeredLookup]


@pytest.fixture
def process(table: Table, service: Service, clock: FixedClock) -> Process:
    """Makes the lookup of a new process: memory empty, table and service shared."""
    return lambda: LayeredLookup([MemoryLayer(100, clock), table], service, TTL, clock)


def tiers(lookup: LayeredLookup, *keys: str) -> list[Tier]:
    """Who answers for these keys."""
    return [answer.tier for answer in lookup.answer_many(keys)]


def test_answers_are_in_the_order_of_the_keys_when_tiers_mix(process: Process) -> None:
    """Every key has its answer, in order, from the first tier that has it."""
    process().answer_many(["b"])
    lookup = process()
    lookup.answer_many(["a"])
    answers = lookup.answer_many(["nobody", "a", "b"])
    assert [(a.tier, a.entry.value) for a in answers] == [
        (Tier.SOURCE, None), (Tier.MEMORY, PREMIUM), (Tier.POSTGRES, FREE),
    ]  # fmt: skip


def test_each_tier_is_asked_once_when_keys_are_missing(process: Process, table: Table, service: Service) -> None:
    """A tier gets one question, for all keys that those before it do not have; without any it is not asked."""
    process().answer_many(["a"])
    table.asked.clear()
    service.asked.clear()
    lookup = process()
    lookup.answer_many(["a", "b", "nobody"])
    lookup.answer_many(["a", "b", "nobody"])
    assert (table.asked, service.asked) == ([["a", "b", "nobody"]], [["b", "nobody"]])


def test_nobody_is_asked_when_there_are_no_keys(process: Process, table: Table, service: Service) -> None:
    """No keys, no questions."""
    assert list(process().answer_many([])) == []
    assert (table.asked, service.asked) == ([], [])


def test_answer_of_the_table_goes_into_memory_when_fresh(process: Process, table: Table) -> None:
    """The second chunk of a process finds in memory what the first found in the table; the table is not rewritten."""
    process().answer_many(["a"])
    table.written.clear()
    lookup = process()
    assert tiers(lookup, "a") == [Tier.POSTGRES]
    assert tiers(lookup, "a") == [Tier.MEMORY]
    assert table.written == []


@pytest.mark.parametrize(("key", "seconds"), [("a", TTL.found_seconds), ("nobody", TTL.absent_seconds)])
def test_source_is_asked_again_when_its_answer_expires(
    process: Process, clock: FixedClock, key: str, seconds: float
) -> None:
    """Found and absent answers are served for their own time, from either cache, and not a moment longer."""
    first = process()
    first.answer_many([key])
    clock.advance(seconds - 1)
    assert tiers(first, key) + tiers(process(), key) == [Tier.MEMORY, Tier.POSTGRES]
    clock.advance(1)
    assert tiers(first, key) == [Tier.SOURCE]


def test_expiry_counts_from_the_answer_when_the_source_is_slow(
    process: Process, service: Service, clock: FixedClock
) -> None:
    """A source that fails after longer than a failure is remembered is still not asked by the next chunk."""
    service.down, service.takes_seconds = True, TTL.failed_seconds + 10
    lookup = process()
    assert tiers(lookup, "a") + tiers(lookup, "a") == [Tier.SOURCE, Tier.MEMORY]


@pytest.mark.parametrize("outage", ["all", "one"])
def test_key_fails_with_its_reason_when_nothing_stale_is_there(
    process: Process, service: Service, table: Table, outage: str
) -> None:
    """A source that cannot answer costs its keys their value, with the reason named; only memory remembers it."""
    service.down, service.fails_for = outage == "all", {"a"}
    lookup = process()
    (answer,) = lookup.answer_many(["a"])
    reason = "user-lookup-timeout" if outage == "all" else "user-service-error"
    assert (answer.entry.state, answer.entry.reason, answer.entry.value) == (State.FAILED, reason, None)
    assert table.rows == {}
    assert lookup.answer_many(["a"])[0].tier is Tier.MEMORY


def test_source_is_asked_again_when_its_failure_is_forgotten(
    process: Process, service: Service, clock: FixedClock
) -> None:
    """After `failed_seconds` the next chunk asks again, and what it learns is kept."""
    service.down = True
    lookup = process()
    lookup.answer_many(["a"])
    service.down = False
    clock.advance(TTL.failed_seconds)
    (answer,) = lookup.answer_many(["a"])
    assert (answer.tier, answer.entry.value) == (Tier.SOURCE, PREMIUM)
    assert tiers(process(), "a") == [Tier.POSTGRES]


@pytest.mark.parametrize("outage", ["all", "one"])
@pytest.mark.parametrize(("key", "state"), [("a", State.FOUND), ("nobody", State.ABSENT)])
def test_expired_entry_is_served_as_stale_when_the_source_fails(
    process: Process, service: Service, table: Table, clock: FixedClock, outage: str, key: str, state: State
) -> None:
    """An expired answer, absence included, is better than none: it is served, marked, and not kept as a new one."""
    (fresh,) = process().answer_many([key])
    before = dict(table.rows)
    clock.advance(TTL.found_seconds)
    service.down, service.fails_for = outage == "all", {key}

    lookup = process()
    (stale,) = lookup.answer_many([key])
    assert (stale.tier, stale.entry.stale, stale.entry.state) == (Tier.SOURCE, True, state)
    assert (stale.entry.value, stale.entry.reason) == (fresh.entry.value, fresh.entry.reason)
    assert table.rows == before


def test_stale_entry_is_remembered_when_the_next_chunk_asks(
    process: Process, service: Service, clock: FixedClock
) -> None:
    """A source that is down is not asked by every chunk: memory serves the stale entry, still marked, for a while."""
    process().answer_many(["a"])
    clock.advance(TTL.found_seconds)
    service.down = True
    lookup = process()
    lookup.answer_many(["a"])
    service.asked.clear()
    (again,) = lookup.answer_many(["a"])
    assert (again.tier, again.entry.stale, service.asked) == (Tier.MEMORY, True, [])
    clock.advance(TTL.failed_seconds)
    assert tiers(lookup, "a") == [Tier.SOURCE]


def test_expired_entry_gives_way_when_the_source_answers(process: Process, service: Service, clock: FixedClock) -> None:
    """An expired entry is never served while the source answers."""
    process().answer_many(["a"])
    clock.advance(TTL.found_seconds)
    service.profiles["a"] = FREE
    (answer,) = process().answer_many(["a"])
    assert (answer.entry.value, answer.entry.stale) == (FREE, False)


def test_key_fails_when_the_source_leaves_it_out(table: Table, service: Service, clock: FixedClock) -> None:
    """A source that returns no entry for a key has failed for it."""
    service.leaves_out = {"a"}
    lookup = LayeredLookup([table], service, TTL, clock)
    left_out, answered = lookup.answer_many(["a", "b"])
    assert (left_out.entry.state, left_out.entry.reason) == (State.FAILED, "processing-failed")
    assert answered.entry.value == FREE


def test_entry_of_another_version_is_a_miss_when_the_source_has_one(
    process: Process, service: Service, clock: FixedClock
) -> None:
    """A new version of the source makes all that is cached give way, even while the source is down."""
    service.version = "build-1"
    lookup = process()
    lookup.answer_many(["a"])
    assert lookup.answer_many(["a"])[0].entry.version == "build-1"
    service.version = "build-2"
    assert tiers(lookup, "a") == [Tier.SOURCE]
    service.version, service.down = "build-3", True
    assert lookup.answer_many(["a"])[0].entry.state is State.FAILED


def test_lookup_goes_on_when_a_layer_does_not_answer(process: Process, table: Table, service: Service) -> None:
    """A layer that is down is passed by, not written to in that call, and asked again in the next."""
    process().answer_many(["a"])
    table.written.clear()
    table.down_for = {"get", "put"}
    lookup = process()
    assert tiers(lookup, "a") == [Tier.SOURCE]
    assert table.written == []
    table.down_for = set()
    assert tiers(lookup, "b") == [Tier.SOURCE]
    assert table.written == [["b"]]


def test_answer_stands_when_a_layer_cannot_keep_it(process: Process, table: Table) -> None:
    """A layer that refuses a write costs nothing but the write."""
    table.down_for = {"put"}
    lookup = process()
    assert tiers(lookup, "a") + tiers(lookup, "a") == [Tier.SOURCE, Tier.MEMORY]


def test_failures_are_logged_once_when_tiers_fail(
    table: Table, service: Service, clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has one line per tier, however often it fails."""
    lookup = LayeredLookup([table], service, TTL, clock)
    table.down_for, service.down = {"get"}, True
    lookup.answer_many(["a"])
    lookup.answer_many(["b"])
    assert [record.getMessage().split(" error=")[0] for record in caplog.records] == [
        "lookup.tier_failed tier=postgres", "lookup.tier_failed tier=source",
    ]  # fmt: skip


class GradualService(Service):
    """A service that answers key by key, and may stop half way."""

    def __init__(self, clock: FixedClock, table: Table) -> None:
        super().__init__(clock)
        self.seen: list[set[str]] = []  # what the table has when the next part is asked for
        self.stops_after: int | None = None
        self._table = table

    def fetch_parts(self, keys: Sequence[str]) -> Iterator[Mapping[str, Entry]]:
        for number, key in enumerate(keys):
            self.seen.append(set(self._table.rows))
            if number == self.stops_after:
                raise KeyboardInterrupt
            yield {key: self._entry(key)}
        if self.down:
            raise SourceUnavailable("user-lookup-timeout", "no answer within 5 s")


@pytest.fixture
def gradual(clock: FixedClock, table: Table) -> GradualService:
    """It knows user a and user b."""
    service = GradualService(clock, table)
    service.profiles = {"a": PREMIUM, "b": FREE}
    return service


def test_answers_are_kept_as_they_come_when_the_source_is_gradual(
    gradual: GradualService, table: Table, clock: FixedClock
) -> None:
    """The table has each part before the next is waited for; memory takes all at once, in the end."""
    memory = MemoryLayer(100, clock)
    lookup = LayeredLookup([memory, table], gradual, TTL, clock)
    answers = lookup.answer_many(["a", "nobody", "b"])
    assert [a.entry.state for a in answers] == [State.FOUND, State.ABSENT, State.FOUND]
    assert gradual.seen == [set(), {"a"}, {"a", "nobody"}]
    assert table.written == [["a"], ["nobody"], ["b"]]
    assert set(memory.get_many(["a", "nobody", "b"])) == {"a", "nobody", "b"}


def test_next_try_has_what_was_answered_when_a_task_is_stopped(
    gradual: GradualService, table: Table, clock: FixedClock
) -> None:
    """Whatever ends the task while it waits, the next one asks only for the rest."""
    gradual.stops_after = 2
    with pytest.raises(KeyboardInterrupt):
        LayeredLookup([MemoryLayer(100, clock), table], gradual, TTL, clock).answer_many(["a", "nobody", "b"])
    answers = LayeredLookup([MemoryLayer(100, clock), table], gradual, TTL, clock).answer_many(["a", "nobody", "b"])
    assert [answer.tier for answer in answers] == [Tier.POSTGRES, Tier.POSTGRES, Tier.SOURCE]


def test_layer_that_refuses_a_part_is_not_written_to_again(
    gradual: GradualService, table: Table, clock: FixedClock
) -> None:
    """Each refusal may cost its timeout: one is enough for a call."""
    table.down_for = {"put"}
    lookup = LayeredLookup([table], gradual, TTL, clock)
    assert tiers(lookup, "a", "b") == [Tier.SOURCE, Tier.SOURCE]
    assert table.written == [["a"]]


def test_failed_and_left_out_keys_of_a_gradual_source_fail_or_are_stale(
    gradual: GradualService, table: Table, clock: FixedClock
) -> None:
    """As those of any other."""
    LayeredLookup([table], gradual, TTL, clock).answer_many(["a"])
    clock.advance(TTL.found_seconds)
    gradual.fails_for, gradual.down = {"a", "b"}, True
    stale, failed = LayeredLookup([table], gradual, TTL, clock).answer_many(["a", "b"])
    assert (stale.entry.stale, stale.entry.value) == (True, PREMIUM)
    assert (failed.entry.state, failed.entry.reason) == (State.FAILED, "user-service-error")
    assert failed.entry.expires_at == clock() + TTL.failed_seconds


def test_source_is_asked_for_so_many_keys_at_once(process: Process, table: Table, service: Service) -> None:
    """Its answers are objects, and texts for the table: those of a whole chunk would take many megabytes."""
    keys = [f"user-{number}" for number in range(2 * MOST_KEYS + 1)]
    service.profiles |= dict.fromkeys(keys, FREE)
    answers = process().answer_many(keys)
    assert [answer.entry.value for answer in answers] == [FREE] * len(keys)
    assert [len(asked) for asked in service.asked] == [MOST_KEYS, MOST_KEYS, 1]
    assert [len(written) for written in table.written] == [MOST_KEYS, MOST_KEYS, 1]
    assert len(table.asked) == 1


def test_source_is_not_asked_for_the_rest_when_it_fails_for_many_keys(process: Process, service: Service) -> None:
    """A source that is down is waited for once; what it had answered before is served and kept."""
    keys = [f"user-{number}" for number in range(3 * MOST_KEYS)]
    answer = service.fetch_many

    def fail_later(asked: Sequence[str]) -> dict[str, Entry]:
        service.down = bool(service.asked)
        return answer(asked)

    service.fetch_many = fail_later  # type: ignore[assignment, method-assign]
    states = [answer.entry.state for answer in process().answer_many(keys)]
    assert states == [State.ABSENT] * MOST_KEYS + [State.FAILED] * 2 * MOST_KEYS
    assert len(service.asked) == 2
