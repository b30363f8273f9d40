"""Writes behind the look-ups: what a source said goes into its table while the next keys are looked up already."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from enrichment.caches.base import Entry, Tier
from enrichment.caches.entries import Entries
from enrichment.caches.postgres import PostgresLayer
from enrichment.errors import LayerUnavailable

log = logging.getLogger(__name__)


class OneBehind:
    """Runs a call in a thread while the caller goes on; a second one waits for the first."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None

    def run(self, work: Callable[[], None]) -> None:
        """Begin the work, once the one before has ended. Raises what that has raised, and then begins nothing."""
        self.wait()
        self._running = self._thread.submit(work)

    def wait(self) -> None:
        """Wait for the work that was begun last. Raises what it has raised, once."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Wait, and end the thread. Raises as `wait`."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()


class WriteBehindTable:
    """A `CacheLayer`: a table that is written behind its caller, one call at a time.

    What is being written is known already, as if it were written. A failure is raised by the next call that writes, or
    logged by `close`: it costs what it would have cost at once, these entries in the table.
    """

    tier = Tier.POSTGRES

    def __init__(self, table: PostgresLayer) -> None:
        self._table = table
        self._behind = OneBehind()
        self._coming = Entries.of({})

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        """As `PostgresLayer.get_many`."""
        # As columns: an object for each key that the table has would take many times their memory.
        known = self._coming.among(keys)
        if not known:
            return self._table.get_many(keys)
        return Entries.concat([known, Entries.of(self._table.get_many(known.others(keys)))])

    def put_many(self, entries: Mapping[str, Entry]) -> None:
        """Begin to write these entries. Raises `LayerUnavailable` where those before could not be written."""
        self._coming = Entries.of({})
        used = self._table.take_used()
        self._behind.run(lambda: self._table.put_many(entries, used))
        self._coming = Entries.of(entries)

    def close(self) -> None:
        """Wait until all is written, and close the table's connections."""
        try:
            self._behind.close()
        except LayerUnavailable as error:
            log.warning("cache.not_written entries=%d error=%s", len(self._coming), error)
        finally:
            self._table.close()
