"""Items in, the same items out, each made in a thread while the one before it is worked on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetched(items: Iterator[Item]) -> Generator[Item, None, None]:
    """What making an item raises is raised where the item would have come.

    Who ends early does not wait for the item that is being made: its source may hang. Close the iterator then.
    """
    thread, end = ThreadPoolExecutor(1), object()
    try:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]  # not the end
    finally:
        thread.shutdown(wait=False, cancel_futures=True)
