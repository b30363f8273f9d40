"""Items in, the same items out, each fetched in a thread while the caller works on the one before."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetched(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Fetch each item one ahead of its use; what fetching it raises is raised in its place.

    Closing the generator early does not wait for the item being fetched, whose source may hang.
    """
    thread, end = ThreadPoolExecutor(1), object()
    try:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]  # not the end
            del item  # the caller is done with it: two are in memory while it works on one, not while it waits
    finally:
        thread.shutdown(wait=False, cancel_futures=True)
