"""When a source counts as down for a batch."""

from __future__ import annotations

import pytest

from enrichment.batches.outages import Outage, OutageDetector, SourceTally, repairable, without_down
from enrichment.caches.base import Entry, State, Tier
from enrichment.enrichers.base import OpenEnricher
from enrichment.enrichers.testing import FixedLookup, look_up_and_enrich, make_events
from enrichment.enrichers.user import USER, Profile

FOUND, STALE = Entry(State.FOUND, Profile("free")), Entry(State.FOUND, Profile("free"), stale=True)
ONCE_UNKNOWN = Entry(State.ABSENT, reason="user-not-found", stale=True)
DOWN, UNKNOWN = Entry(State.FAILED, reason="user-lookup-timeout"), Entry(State.ABSENT, reason="user-not-found")


def asked(answers: list[Entry], rows: list[int | None], tier: Tier = Tier.SOURCE) -> SourceTally:
    """What a meter says of a chunk; rows are numbers of answers, None has no key."""
    enricher = OpenEnricher(USER, FixedLookup({f"u{n}": entry for n, entry in enumerate(answers)}, tier=tier))
    meter = OutageDetector()
    events = make_events(user_id=[None if row is None else f"u{row}" for row in rows])
    meter(events, look_up_and_enrich(enricher, events, {}))
    return meter.asked


def test_keys_and_messages_are_counted() -> None:
    """Keys are asked about once, however many messages have them; messages without the key go without nothing."""
    assert asked([FOUND, DOWN, UNKNOWN, STALE], [0, 1, 1, 1, 2, 3, None]) == SourceTally(keys=4, failed=1, messages=3)


def test_cached_answers_are_not_asked_for_and_remembered_failures_are() -> None:
    """What the caches answer says nothing of the source; a failure that memory still knows does."""
    assert asked([FOUND, FOUND, DOWN], [0, 1, 2], Tier.MEMORY) == SourceTally(keys=1, failed=1, messages=1)


@pytest.mark.parametrize(
    ("answers", "down"),
    [([DOWN] * 3, True), ([DOWN, DOWN, FOUND], True), ([DOWN, FOUND], False), ([UNKNOWN] * 3, False),
     ([DOWN, STALE, STALE], False), ([], False), ([ONCE_UNKNOWN] * 3, True), ([ONCE_UNKNOWN, STALE], False)],
    ids=["all failed", "most failed", "half failed", "none exists", "most served stale", "nobody asked",
         "none existed once", "one of two existed"],
)  # fmt: skip
def test_outage_is_a_share_of_failed_keys(answers: list[Entry], down: bool) -> None:
    """More than the share must have failed, with nothing stale to serve: what does not exist has been answered."""
    assert asked(answers, list(range(len(answers)))).is_outage(0.5) is down


@pytest.mark.parametrize("tier", [Tier.SOURCE, Tier.MEMORY])
def test_absence_that_is_stale_goes_without_an_answer(tier: Tier) -> None:
    """That a key did not exist when it was last asked about is no answer of a source that is down: its messages are
    pending, whether the source was asked just now or is remembered to be down."""
    assert asked([ONCE_UNKNOWN], [0, 0], tier) == SourceTally(keys=1, failed=1, messages=2)
    assert Outage.of("user-profile", asked([ONCE_UNKNOWN], [0, 0], tier), 0.5) == Outage("user-profile", 2)


def test_address_that_is_none_is_no_outage() -> None:
    """A failure that another try cannot mend is the message's own."""
    assert not asked([Entry(State.FAILED, reason="invalid-ip")], [0]).is_outage(0.5)


def test_chunks_add_up() -> None:
    """A batch is judged as a whole."""
    assert SourceTally(3, 2, 5) + SourceTally(4, 1, 1) == SourceTally(7, 3, 6)


def test_failing_for_a_few_keys_is_no_outage_and_is_noted() -> None:
    """What goes without an answer is said in both cases; where nothing does, there is nothing to say."""
    assert Outage.of("user-profile", SourceTally(10, 1, 4), 0.5) == Outage("user-profile", 4, down=False)
    assert Outage.of("user-profile", SourceTally(10, 6, 9), 0.5) == Outage("user-profile", 9)
    assert Outage.of("user-profile", SourceTally(10, 0, 0), 0.5) is None


def test_what_becomes_a_dead_letter_waits_for_no_repair() -> None:
    """A source that is required and failed for a few keys costs their messages, which a redrive sends in again."""
    few = [Outage("user-profile", 1, down=False), Outage("geo-ip", 2, down=False), Outage("business-context", 3)]
    assert repairable(("user-profile", "business-context"), few) == few[1:]


def test_source_that_is_down_is_not_required() -> None:
    """In an outage a required source costs its columns, not the message."""
    outages = [Outage("user-profile", 3)]
    assert without_down(("user-profile", "geo-ip"), outages) == {"geo-ip"}
    assert without_down(("user-profile",), []) == {"user-profile"}
    assert without_down(("user-profile",), [Outage("user-profile", 3, down=False)]) == {"user-profile"}
