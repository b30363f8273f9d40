"""What a topic takes, told from its configuration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from enrichment.codec.records import Chunk, pack_headers
from enrichment.kafka.limits import limits_of
from enrichment.kafka.topic_limits import CLOCKS_MS, FOREVER, TopicLimits
from enrichment.messages import Reason, Refusal

NOW = 1_705_312_800_000
HOUR = 3_600_000


def chunk(timestamps: list[int], keys: list[bytes | None] | None = None, size: int = 10) -> Chunk:
    """Messages with these timestamps and keys."""
    count = len(timestamps)
    headers = [pack_headers([("offset", b"%d" % n)]) for n in range(count)]
    return Chunk.of([0] * count, range(count), timestamps, keys or [b"k"] * count, headers, [b"v" * size] * count)


def test_topic_without_limits_takes_any_time() -> None:
    """By default only the size counts, also at the ends of what a timestamp may be."""
    assert TopicLimits("out", 1000).refusals(chunk([0, 1, NOW, NOW * 1000, FOREVER]), NOW) == {}


def test_times_that_are_out_of_bounds_are_refused() -> None:
    """Of a timestamp too far ahead or behind, the detail names topic, setting and limit as the broker would."""
    limits = TopicLimits("out", 1000, max_age_ms=HOUR, max_ahead_ms=2 * HOUR)
    refusals = limits.refusals(chunk([NOW, NOW * 1000, NOW - 2 * HOUR, -1]), NOW)
    assert refusals == {
        1: Refusal(
            Reason.MESSAGE_REFUSED,
            f"INVALID_TIMESTAMP: {NOW * 1000} is {NOW * 999} ms after the time of publishing; out takes 7200000 at "
            "most (message.timestamp.after.max.ms)",
        ),
        2: Refusal(
            Reason.MESSAGE_REFUSED,
            f"INVALID_TIMESTAMP: {NOW - 2 * HOUR} is 7200000 ms before the time of publishing; out takes 3600000 at "
            "most (message.timestamp.before.max.ms)",
        ),
    }


def test_what_the_clocks_decide_is_left_to_the_broker() -> None:
    """Close to a limit our clock is not to be trusted: nothing is refused that the broker may take."""
    limits = TopicLimits("out", 1000, max_age_ms=HOUR, max_ahead_ms=HOUR)
    close = [NOW + HOUR + CLOCKS_MS, NOW - HOUR - CLOCKS_MS, NOW + HOUR, NOW - HOUR]
    assert limits.refusals(chunk(close), NOW) == {}
    assert limits.refusals(chunk([close[0] + 1, close[1] - 1]), NOW).keys() == {0, 1}
    assert limits.out_of_time(chunk(close).columns["timestamp"], NOW, -CLOCKS_MS).all()


def test_compacted_topic_takes_no_message_without_a_key() -> None:
    """An empty key is a key."""
    messages = chunk([NOW] * 3, [b"", None, b"k"])
    refusals = TopicLimits("out", 1000, compacted=True).refusals(messages, NOW)
    detail = "INVALID_RECORD: no key, and out is compacted (cleanup.policy)"
    assert refusals == {1: Refusal(Reason.MESSAGE_REFUSED, detail)}
    assert TopicLimits("out", 1000).refusals(messages, NOW) == {}


def test_what_the_broker_has_refused_is_known_by_its_headers() -> None:
    """A message that was refused once is not sent again, for the reason that the broker had."""
    messages = chunk([NOW] * 3)
    limits = TopicLimits("out", 1000, known={messages.headers[1]: "POLICY_VIOLATION: no"})
    assert limits.refusals(messages, NOW) == {1: Refusal(Reason.MESSAGE_REFUSED, "POLICY_VIOLATION: no")}


def test_size_is_that_of_the_whole_message() -> None:
    """The reason for a message that is too large is one of its own."""
    [(row, refusal)] = TopicLimits("out", 1000).refusals(chunk([NOW], size=1000), NOW).items()
    assert (row, refusal.reason) == (0, Reason.MESSAGE_TOO_LARGE)


KAFKA_4 = {
    "max.message.bytes": "1048588", "segment.bytes": "1073741824", "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": str(FOREVER), "message.timestamp.after.max.ms": "3600000",
    "cleanup.policy": "delete",
}  # fmt: skip


def described(config: dict[str, Any]) -> dict[str, Any]:
    """A topic's configuration as a client gives it."""
    return {name: SimpleNamespace(value=value) for name, value in config.items()}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, TopicLimits("t", 1_048_588, max_ahead_ms=HOUR)),
        ({"max.message.bytes": "9000000"}, TopicLimits("t", 2_000_000, max_ahead_ms=HOUR)),
        ({"segment.bytes": "100000"}, TopicLimits("t", 100_000, max_ahead_ms=HOUR)),
        ({"cleanup.policy": "compact,delete"}, TopicLimits("t", 1_048_588, max_ahead_ms=HOUR, compacted=True)),
        ({"message.timestamp.type": "LogAppendTime"}, TopicLimits("t", 1_048_588)),
        ({"message.timestamp.before.max.ms": "5"}, TopicLimits("t", 1_048_588, max_age_ms=5, max_ahead_ms=HOUR)),
        (
            {
                "message.timestamp.after.max.ms": str(FOREVER),
                "message.timestamp.before.max.ms": "7",
                "message.timestamp.difference.max.ms": "5",
            },
            TopicLimits("t", 1_048_588, max_age_ms=7, max_ahead_ms=5),
        ),
    ],
    ids=["Kafka 4", "settings", "segment", "compacted", "append time", "before", "Kafka 3.6, difference"],
)
def test_limits_are_those_of_the_configuration(changed: dict[str, str], expected: TopicLimits) -> None:
    """What Kafka calls its settings, and what follows from them."""
    assert limits_of("t", described({**KAFKA_4, **changed}), 2_000_000) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max.message.bytes": "5"}, TopicLimits("t", 5)),
        ({"max.message.bytes": "5", "message.timestamp.difference.max.ms": "9"}, TopicLimits("t", 5, 9, 9)),
    ],
    ids=["another make", "Kafka 3.5"],
)
def test_settings_that_a_broker_does_not_have_limit_nothing(config: dict[str, Any], expected: TopicLimits) -> None:
    """Older brokers, and those of other makes, know fewer settings."""
    assert limits_of("t", described(config), 2_000_000) == expected
