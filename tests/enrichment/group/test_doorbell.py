"""When live draining is woken."""

from __future__ import annotations

import pytest

from enrichment.group.doorbell import LOOKS, Doorbell, Ring
from enrichment.kafka.offsets import Backlog
from enrichment.settings import WakeUpSettings


def doorbell(messages: int = 1_000, after_sec: float = 5) -> Doorbell:
    return Doorbell(WakeUpSettings(messages=messages, after_sec=after_sec))


def at(*offsets: tuple[int, int]) -> list[Backlog]:
    """What waits in each partition: where the group is, and where the log ends."""
    return [Backlog(partition, start, 0, end) for partition, (start, end) in enumerate(offsets)]


def test_rings_when_enough_messages_wait() -> None:
    """In all partitions together, at once."""
    bell = doorbell()
    assert bell.look(at((10, 510), (0, 499)), 0.0) is None
    assert bell.look(at((10, 510), (0, 500)), 1.0) == Ring(1_000, 1.0)


def test_rings_when_the_oldest_has_waited_long_enough() -> None:
    """However few they are."""
    bell = doorbell()
    assert bell.look(at((10, 10)), 0.0) is None
    assert bell.look(at((10, 11)), 7.0) is None
    assert bell.look(at((10, 12)), 11.9) is None
    assert bell.look(at((10, 12)), 12.0) == Ring(2, 5.0)


@pytest.mark.parametrize("settings", [{"messages": 1}, {"after_sec": 0}])
def test_rings_not_when_nothing_waits(settings: dict[str, int]) -> None:
    """Not even with the smallest settings, nor when a topic has become shorter than the group is far."""
    bell = doorbell(**settings)
    assert bell.look(at((10, 10)), 0.0) is None
    assert bell.look(at((10, 3)), 99.0) is None
    assert bell.look([], 100.0) is None


def test_rings_once_for_each_place_of_the_group() -> None:
    """More messages are no news while a run is under way or has failed; that the group has moved is."""
    bell = doorbell(messages=5)
    assert bell.look(at((0, 5), (0, 0)), 0.0) is not None
    assert bell.look(at((0, 5_000), (0, 7)), 60.0) is None
    assert bell.look(at((5, 5_000), (0, 7)), 61.0) == Ring(5_002, 1.0)
    assert bell.look(at((5, 9_000), (0, 7)), 62.0) is None


def test_age_is_that_of_the_oldest_that_still_waits() -> None:
    """What the group has passed no longer counts."""
    bell = doorbell()
    bell.look(at((0, 1)), 0.0)
    bell.look(at((0, 2)), 3.0)
    assert bell.look(at((1, 2)), 6.0) is None  # three seconds old
    assert bell.look(at((1, 2)), 8.0) == Ring(1, 5.0)


def test_what_is_remembered_does_not_grow() -> None:
    """A group that stands still for a day under load: the oldest is as old as what is remembered."""
    bell = doorbell(messages=10**9, after_sec=300)
    assert bell.look(at((0, 1)), 0.0) is None
    rings = [bell.look(at((0, 1 + look)), float(look)) for look in range(1, 10 * LOOKS)]
    assert [ring for ring in rings if ring is not None] == [Ring(301, 300.0)]
    assert sum(len(seen) for seen in bell._seen.values()) <= LOOKS
