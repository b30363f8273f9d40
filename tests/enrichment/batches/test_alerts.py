"""What is said of a batch that was published and is odd all the same."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from enrichment.batch import Batch
from enrichment.batches.alerts import alerts_of, said_of
from enrichment.batches.provenance import Counts
from enrichment.batches.staged import Drained, Published
from enrichment.caches.base import LookupCounts
from enrichment.enrichers.registry import REGISTRY
from enrichment.settings import load

BATCH = Batch("dag/run/0", "in", "us", 0, ())


def alerts(
    counts: Counts, keyed: Mapping[str, int] | None = None, strange: tuple[str, ...] = (), refused: int = 0
) -> list[str]:
    """What is said of so many messages, all with keys unless `keyed` says otherwise."""
    events = counts.total - refused
    found = {"geo": events, "user": events, "business": events, **(keyed or {})}
    lookups = {name: LookupCounts(messages=number) for name, number in found.items()}
    drained = Drained(BATCH, counts.total, refused, 0)
    return list(alerts_of(drained, Published(counts, True), lookups, load(), lambda: strange))


@pytest.mark.parametrize(
    ("counts", "keyed"),
    [
        (Counts(enriched=100), None),
        (Counts(enriched=100), {"user": 5}),
        (Counts(partial=50, enriched=50), None),
        (Counts(dead=50, enriched=50), None),
        (Counts(partial=19), {"user": 0}),
        (Counts(), {"user": 0}),
    ],
    ids=["well", "keys at the limit", "half partial", "half dead", "few messages", "no messages"],
)
def test_batch_that_is_as_it_should_be_has_no_alert(counts: Counts, keyed: Mapping[str, int] | None) -> None:
    """Up to the settings' shares, and for batches too small to say anything."""
    assert alerts(counts, keyed) == []


def test_missing_keys_are_named_with_what_stands_in_their_place() -> None:
    """A topic of another contract: which keys, how many, the fields that it has instead, and how to silence it."""
    [said] = alerts(Counts(enriched=1000), {"geo": 0, "user": 49}, ("clientIp", "uid"))
    assert said == (
        "hardly one of 1,000 messages has `source_ip` (100.0% go without it), `user_id` (95.1% go without it), so "
        "nothing is looked up by that. The first has `clientIp`, `uid`: are they the same under other names? Where it "
        "is as it should be: GEO_IP_MAX_KEYLESS_SHARE=1, USER_SERVICE_MAX_KEYLESS_SHARE=1"
    )


def test_messages_that_are_no_events_have_no_keys_to_miss() -> None:
    """Of 25 messages 19 are junk; the other six are too few to be judged. All that is said is that many are dead."""
    [said] = alerts(Counts(enriched=6, dead=19, dead_by_reason={"invalid-json": 19}), {"geo": 0}, refused=19)
    assert said.startswith("19 of 25 messages became dead letters: invalid-json 19. A dry run of stacklens_dlq_redrive")


@pytest.mark.parametrize("name", ["GEO_IP", "USER_SERVICE", "BUSINESS"])
def test_keys_that_need_not_be_there_are_not_missed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that the sentence names does what it says."""
    without = dict.fromkeys(("geo", "user", "business"), 0)
    [said] = alerts(Counts(enriched=100), without)
    assert f"{name}_MAX_KEYLESS_SHARE=1" in said
    monkeypatch.setenv(f"{name}_MAX_KEYLESS_SHARE", "1")
    [said] = alerts(Counts(enriched=100), without)
    assert f"{name}_MAX_KEYLESS_SHARE=1" not in said


def test_enrichment_without_a_setting_for_keys_needs_none() -> None:
    """One that somebody has added, as docs/extend.md has it."""
    assert alerts(Counts(enriched=100), {"watch": 0}) == []


def test_partial_messages_are_explained() -> None:
    """The most frequent errors of those that were published, with their meaning; not those of dead letters."""
    counts = Counts(
        partial=90, dead=10, by_reason={"user-not-found": 7, "business-context-not-found": 90, "invalid-json": 10},
        dead_by_reason={"invalid-json": 10},
    )  # fmt: skip
    [said] = alerts(counts)
    assert said == (
        "90 of 100 messages were published partial: business-context-not-found 90 (your tables have no such requests), "
        "user-not-found 7 (the user service knows no such users)"
    )


def test_shares_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never, or at once."""
    monkeypatch.setenv("ENRICHMENT_WARN_SHARE", "1")
    assert alerts(Counts(dead=100)) == []
    monkeypatch.setenv("ENRICHMENT_WARN_SHARE", "0.01")
    monkeypatch.setenv("ENRICHMENT_WARN_FROM", "2")
    assert len(alerts(Counts(partial=1, enriched=1))) == 1


def test_every_error_of_a_partial_message_has_a_meaning() -> None:
    """All that can stand in `enrichment_errors`."""
    assert {reason for e in REGISTRY.enrichers for reason in e.reasons} == set(REGISTRY.reasons)
    assert all(REGISTRY.reasons.values())
    assert said_of({"a": 1, "b": 3, "c": 2, "d": 9}) == "d 9, b 3, c 2"
