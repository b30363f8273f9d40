"""Items that are made one ahead."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from weakref import finalize

import pytest

from enrichment.batches.prefetch import prefetched

SECONDS = 10.0  # after which a test that hangs fails


def test_items_come_in_order() -> None:
    """All of them, each once."""
    assert list(prefetched(iter(range(100)))) == list(range(100))
    assert list(prefetched(iter([]))) == []


def test_next_item_is_made_while_the_one_before_it_is_worked_on() -> None:
    """Nobody has to ask for it; the one after the next is not begun."""
    begun = [Event(), Event(), Event()]

    def items() -> Iterator[int]:
        for n, event in enumerate(begun):
            event.set()
            yield n

    ahead = prefetched(items())
    next(ahead)
    assert begun[1].wait(SECONDS)
    assert not begun[2].is_set()
    ahead.close()


def test_item_is_not_kept_while_the_next_one_is_awaited() -> None:
    """What the caller is done with is free: the item being fetched needs the memory."""
    gone, found = Event(), list[bool]()

    def items() -> Iterator[object]:
        yield noticed(gone)
        found.append(gone.wait(SECONDS))
        yield noticed(Event())

    ahead = prefetched(items())
    next(ahead)
    next(ahead)
    assert found == [True]


class Worked:
    """An item that can be told to be gone."""


def noticed(gone: Event) -> Worked:
    """An item whose end sets the event."""
    item = Worked()
    finalize(item, gone.set)
    return item


def test_error_stands_where_the_item_would_have_come() -> None:
    """What was made before it is worked on first."""

    def items() -> Iterator[int]:
        yield 0
        raise ValueError("a bug")

    ahead = prefetched(items())
    assert next(ahead) == 0
    with pytest.raises(ValueError, match="a bug"):
        next(ahead)


def test_who_ends_early_does_not_wait() -> None:
    """An item that hangs holds nobody up who does not want it any more."""
    begun, released, made = Event(), Event(), Event()

    def items() -> Iterator[int]:
        yield 0
        begun.set()
        released.wait(SECONDS)
        made.set()
        yield 1

    ahead = prefetched(items())
    next(ahead)
    assert begun.wait(SECONDS)
    ahead.close()
    assert not made.is_set()
    released.set()
