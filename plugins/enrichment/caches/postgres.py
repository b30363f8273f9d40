"""Takes entries, keeps them in a table of PostgreSQL: the tier that the next run, and the next worker, finds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from enrichment.caches.base import Entry, Tier
from enrichment.caches.entries import EXPIRES_AT, IS_STALE, KEY, REASON, STATE, VERSION, Entries, lasting
from enrichment.caches.tables import CacheTable
from enrichment.codec.postgres_arrays import ArrayParameter, array_cursor, arrays_of, column_of
from enrichment.codec.struct_columns import arrow_types
from enrichment.databases import KeptConnection, Pause
from enrichment.errors import LayerUnavailable

log = logging.getLogger(__name__)

# A B-tree takes keys up to a third of a page; a key is any text that a message holds.
MAX_KEY_BYTES = 2_000
# A column of rows that were read, beside those of `Entries`: in seconds since the epoch.
FETCHED_AT = "fetched_at"


class PostgresLayer:
    """A `CacheLayer` over a cache table; one statement to read any number of keys, one to write them.

    Rows of another `version` are not seen (empty: any is). Rows that expired less than `stale_grace_seconds` ago are
    returned too, for the caller to judge. `connect` gives a connection, one to read and one to
    write, which is kept until it breaks; then another is opened. `clock` gives seconds since the epoch.

    A row's last use (`last_used_at`, which eviction goes by) is noted when the recorded one is older than
    `touch_after_seconds`: with the entries that are put next, so that it takes no statement of its own. Where there are
    none, the next reading or `close` does it.

    Raises `LayerUnavailable` for any error of the database. Where it does not answer in time, the table is not read
    (not written) again for `pause_seconds`, then twice as long: a task waits for a locked table once, not for each
    chunk. Keys that no table can hold are unknown to it.
    """

    tier = Tier.POSTGRES

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        table: CacheTable,
        *,
        clock: Callable[[], float],
        version: str = "",
        stale_grace_seconds: float = 0,
        touch_after_seconds: float = 900,
        pause_seconds: float = 30,
    ) -> None:
        # Two, so that reading does not wait for writing, which goes on beside it (`enrichment.caches.behind`).
        self._reader, self._writer = KeptConnection(connect), KeptConnection(connect)
        self._reading, self._writing = Pause(pause_seconds), Pause(pause_seconds)
        self._table = table
        self._clock = clock
        self._version = version
        self._grace = stale_grace_seconds
        self._touch_after = touch_after_seconds
        self._used = Entries.of({})  # with FETCHED_AT

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        """The entries of those keys that the table has, expired ones within the grace included."""
        asked = pa.array(keys, pa.string())
        known = asked.filter(are_storable_keys(asked))
        if not len(known):
            return {}
        self._note_use(self._reader)
        now = self._clock()
        columns = self._execute(
            self._reader,
            "get_many",
            {
                "keys": ArrayParameter(known),
                "now": now,
                "served_from": now - self._grace,
                "touched_before": now - self._touch_after,
                "version": self._version,
            },
        )
        arrays = list(filter(None, columns))
        if not arrays:  # aggregates of no rows
            return {}
        try:
            entries, self._used = self._entries_of(arrays)
        except ValueError as odd:
            raise LayerUnavailable(f"{self._table.table}: {odd}") from odd
        return entries

    def _entries_of(self, arrays: Sequence[bytes]) -> tuple[Entries, Entries]:
        """What `get_many.sql` returned, and what of it is to be noted as used, with the time of its fetch."""
        key, state, reason, version, expires_at, fetched_at, is_due, *fields = map(column_of, arrays)
        types = arrow_types(self._table.values)
        values = {name: field.cast(types[name]) for name, field in zip(types, fields, strict=True)}
        head = {KEY: key, STATE: state, REASON: reason, EXPIRES_AT: expires_at, VERSION: version}
        entries = Entries(pa.table(head | {IS_STALE: pa.repeat(False, len(key))} | values), self._table.values)
        used = Entries(entries.rows.append_column(FETCHED_AT, fetched_at), entries.struct)
        return entries, used.filter(is_due)

    def put_many(self, entries: Mapping[str, Entry], used: Entries | None = None) -> None:
        """Upsert these entries, in key order; those that failed or were served stale are left out. With them the last
        use of what was read before is noted, or of what is given (`take_used`)."""
        self._put(entries, self._clock(), self.take_used() if used is None else used)

    def renew_many(self, entries: Mapping[str, Entry]) -> None:
        """Put entries that no message asked for: their last use stays as it is."""
        self._put(entries, None, Entries.of({}))

    def take_used(self) -> Entries:
        """What was read last and is not noted as used yet, for a `put_many` in another thread."""
        used, self._used = self._used, Entries.of({})
        return used

    def _put(self, entries: Mapping[str, Entry], used_at: float | None, used: Entries) -> None:
        kept = lasting(entries)
        kept = kept.filter(are_storable_keys(kept.column(KEY)))
        if used:
            used = used.filter(pc.invert(pc.is_in(used.column(KEY), kept.column(KEY))))
        if used or kept:
            self._write(self._writer, Entries.concat([used, kept]), used_at)

    def _note_use(self, connection: KeptConnection) -> None:
        """Note the last use of what was read last, if nothing was put since. A failure costs only that: the answers are
        there."""
        if used := self.take_used():
            try:
                self._write(connection, used, self._clock())
            except LayerUnavailable as error:
                log.warning("cache.use_not_noted table=%s keys=%d error=%s", self._table.table, len(used), error)

    def _write(self, connection: KeptConnection, entries: Entries, used_at: float | None) -> None:
        """Write entries as they are, those without `FETCHED_AT` as fetched now."""
        now = self._clock()
        columns = _columns_of(entries, now, self._table.values)
        given = arrays_of(pa.table(columns, names=list(self._table.given)))
        self._execute(connection, "put_many", {**given, "fetched_at": now, "used_at": used_at})

    def close(self) -> None:
        """Write the last use of what was read last, and close the connections, if there are any."""
        self._note_use(self._writer)
        self._reader.close()
        self._writer.close()

    def _execute(self, connection: KeptConnection, statement: str, parameters: Mapping[str, Any]) -> list[bytes | None]:
        """The values of the one row that a statement returns, in binary; empty without a row."""
        pause = self._reading if statement == "get_many" else self._writing
        if pause.seconds_left:
            waits = f"passed by for {pause.seconds_left:.0f} s more, since {pause.why}"
            raise LayerUnavailable(f"{self._table.table}: {waits}")
        text = self._table.statement(statement)

        def work(opened: psycopg.Connection[Any]) -> list[bytes | None]:
            with array_cursor(opened) as cursor:
                result = cursor.execute(text, parameters).pgresult
                return [result.get_value(0, column) for column in range(result.nfields)] if result else []

        try:
            with pause.watch():
                return connection.run(work)
        except psycopg.Error as error:
            raise LayerUnavailable(f"{self._table.table}: {error}") from error


def _columns_of(entries: Entries, now: float, struct: type[msgspec.Struct]) -> list[pa.Array]:
    """What `put_many` is given, column by column, in the order of `CacheTable.given`."""
    rows = entries.rows
    fetched_at = (
        pc.fill_null(rows[FETCHED_AT], now) if FETCHED_AT in rows.column_names else pa.repeat(now, len(entries))
    )
    head = [rows[name] for name in (KEY, STATE, REASON, VERSION, EXPIRES_AT)]
    values = [
        pa.nulls(len(entries), kind) if entries.struct is None else rows[name]
        for name, kind in arrow_types(struct).items()
    ]
    return [*head, fetched_at, *values]


def are_storable_keys(keys: pa.Array) -> pa.Array:
    """Which keys of a column a table can hold: one odd key in a chunk must not cost the others their look-up."""
    return pc.and_(pc.less_equal(pc.binary_length(keys), MAX_KEY_BYTES), pc.invert(pc.match_substring(keys, "\0")))
