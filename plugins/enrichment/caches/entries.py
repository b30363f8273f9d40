"""Many entries, or answers, as columns: thousands of keys without an object for each.

Both satisfy the protocols of `enrichment.caches.base`, too: the `Entry` or `Answer` of a row is made on access.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import overload

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from enrichment.caches.base import Answer, Entry, State, Tier
from enrichment.codec.buffers import Flags
from enrichment.codec.struct_columns import StructType, arrow_types, columns_of

KEY, STATE, REASON, EXPIRES_AT, VERSION, IS_STALE, TIER = (
    "key", "state", "reason", "expires_at", "version", "stale", "tier",
)  # fmt: skip


class _Rows:
    """Rows of distinct keys: the columns `KEY` to `IS_STALE`, and a value's fields under the output's names, null where
    there is no value. `struct` has these fields; it is None, and the columns are missing, where no row has a value."""

    def __init__(self, rows: pa.Table, struct: StructType | None) -> None:
        self.rows = rows
        self.struct = struct

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def column(self, name: str) -> pa.Array:
        """One of the columns."""
        return self.rows[name].combine_chunks()

    def _entries(self) -> Iterator[Entry]:
        """An object for each row."""
        states, *others = (self.rows[name].to_pylist() for name in (STATE, REASON, EXPIRES_AT, VERSION, IS_STALE))
        for state, value, part in zip(states, self._values(), zip(*others, strict=True), strict=True):
            yield Entry(State(state), value if state == State.FOUND else None, *part)

    def _values(self) -> Iterable[msgspec.Struct | None]:
        if self.struct is None:
            return [None] * len(self)
        fields = [self.rows[name].to_pylist() for name in arrow_types(self.struct)]
        return map(self.struct, *fields)


class Entries(_Rows, Mapping[str, Entry]):
    """The entries of some keys."""

    @classmethod
    def of(cls, entries: Mapping[str, Entry]) -> Entries:
        """These entries as columns."""
        if isinstance(entries, Entries):
            return entries
        values = [entry.value for entry in entries.values()]
        struct = next((type(value) for value in values if value is not None), None)
        parts = zip(*((e.state, e.reason, e.expires_at, e.version, e.stale) for e in entries.values()), strict=True)
        state, reason, expires_at, version, stale = parts if entries else [()] * 5
        columns = {
            KEY: pa.array(entries, pa.string()),
            STATE: pa.array(state, pa.string()),
            REASON: pa.array(reason, pa.string()),
            EXPIRES_AT: pa.array(expires_at, pa.float64()),
            VERSION: pa.array(version, pa.string()),
            IS_STALE: pa.array(stale, pa.bool_()),
        }
        return cls(pa.table(columns | ({} if struct is None else columns_of(values, struct))), struct)

    @classmethod
    def found(cls, keys: Sequence[str], values: Mapping[str, pa.Array], struct: StructType, version: str) -> Entries:
        """Found entries; a column for each field of `struct`, under the output's names."""
        columns = {
            KEY: pa.array(keys, pa.string()),
            STATE: pa.repeat(pa.scalar(State.FOUND, pa.string()), len(keys)),
            REASON: pa.nulls(len(keys), pa.string()),
            EXPIRES_AT: pa.repeat(0.0, len(keys)),
            VERSION: pa.repeat(version, len(keys)),
            IS_STALE: pa.repeat(False, len(keys)),
        }
        return cls(pa.table({**columns, **values}), struct)

    @classmethod
    def concat(cls, parts: Sequence[Entries]) -> Entries:
        """The entries of all parts, which share no key."""
        return cls(*_concat(parts)) if parts else cls.of({})

    @classmethod
    def latest(cls, keys: Sequence[str], parts: Sequence[Entries]) -> Entries:
        """For each of the keys that is in one of the parts its entry in the last of those."""
        every = cls.concat(parts[::-1])
        places = pc.index_in(pa.array(keys, pa.string()), every.column(KEY)).drop_null()
        return cls(every.rows.take(places), every.struct)

    def dated(self, expiries: Mapping[State, float], version: str) -> Entries:
        """The same with this version, each with the expiry of its state."""
        states = self.column(STATE).dictionary_encode()
        by_state = pa.array([expiries[State(state)] for state in states.dictionary.to_pylist()], pa.float64())
        rows = self.rows
        for name, column in {
            EXPIRES_AT: by_state.take(states.indices),
            VERSION: pa.repeat(version, len(self)),
        }.items():
            rows = rows.set_column(rows.schema.get_field_index(name), name, column)
        return Entries(rows, self.struct)

    def filter(self, wanted: pa.Array) -> Entries:
        """Those for which `wanted` is true."""
        return self if wanted.true_count == len(self) else Entries(self.rows.filter(wanted), self.struct)

    def have(self, name: str, value: str) -> pa.Array:
        """Which of them have this value in a column."""
        return pc.equal(self.column(name), value)

    def among(self, keys: Sequence[str]) -> Entries:
        """Those of these keys; keys without an entry are passed over."""
        return self.filter(pc.is_in(self.column(KEY), pa.array(keys, pa.string()))) if self else self

    def others(self, keys: Sequence[str]) -> Sequence[str]:
        """Those of the keys that have no entry here; the entries must be of some of them."""
        if not self or len(self) == len(keys):
            return [] if self else keys
        known = self._keys  # asked as a set: thousands of calls of `in` take several times as long
        return [key for key in keys if key not in known]

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    @cached_property
    def _keys(self) -> frozenset[str]:
        return frozenset(self.rows[KEY].to_pylist())

    def from_tier(self, tier: Tier) -> Answers:
        """These entries as the answers of a tier."""
        tiers = pa.repeat(pa.scalar(tier, pa.string()), len(self))
        return Answers(self.rows.append_column(TIER, tiers), self.struct)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_key)

    def __getitem__(self, key: str) -> Entry:
        return self._by_key[key]

    @cached_property
    def _by_key(self) -> dict[str, Entry]:
        return dict(zip(self.rows[KEY].to_pylist(), self._entries(), strict=True))


class Answers(_Rows, Sequence[Answer]):
    """Answers, in some order; beside the columns of `Entries` there is `TIER`."""

    @classmethod
    def of(cls, keys: Sequence[str], answers: Sequence[Answer]) -> Answers:
        """The answers for these keys as columns."""
        if isinstance(answers, Answers):
            return answers
        entries = Entries.of({key: answer.entry for key, answer in zip(keys, answers, strict=True)})
        tiers = pa.array([answer.tier for answer in answers], pa.string())
        return cls(entries.rows.append_column(TIER, tiers), entries.struct)

    @classmethod
    def in_order(cls, keys: Sequence[str], parts: Iterable[Answers]) -> Answers:
        """One answer per key, in the order of `keys`, each of which is in one of the parts."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return cls.of([], [])
        rows, struct = _concat(parts)
        places = pc.index_in(pa.array(keys, pa.string()), rows[KEY].combine_chunks())
        if places.null_count:
            raise KeyError(keys[places.is_null().index(True).as_py()])
        return cls(rows.take(places), struct)

    def are(self, name: str, value: str) -> Flags:
        """Which rows have this value in a column."""
        found: Flags = pc.equal(self.column(name), value).to_numpy(zero_copy_only=False)
        return found

    def fields(self, struct: StructType) -> dict[str, pa.Array]:
        """The fields of this struct as columns, null for what is not found."""
        is_found, types = pc.equal(self.column(STATE), State.FOUND), arrow_types(struct)
        if self.struct is None:
            return {name: pa.nulls(len(self), kind) for name, kind in types.items()}
        return {name: pc.if_else(is_found, self.column(name), pa.scalar(None, kind)) for name, kind in types.items()}

    @overload
    def __getitem__(self, row: int) -> Answer: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Answer]: ...
    def __getitem__(self, row: int | slice) -> Answer | Sequence[Answer]:
        return self._answers[row]

    def __iter__(self) -> Iterator[Answer]:
        return iter(self._answers)

    @cached_property
    def _answers(self) -> list[Answer]:
        return list(map(Answer, self._entries(), map(Tier, self.rows[TIER].to_pylist())))


def lasting(entries: Mapping[str, Entry]) -> Entries:
    """The entries worth keeping beyond the process: answers that the source gave."""
    columns = Entries.of(entries)
    is_answer = pc.and_(pc.invert(columns.have(STATE, State.FAILED)), pc.invert(columns.column(IS_STALE)))
    return columns.filter(is_answer)


def _concat(parts: Sequence[_Rows]) -> tuple[pa.Table, StructType | None]:
    rows = pa.concat_tables([part.rows for part in parts], promote_options="default").combine_chunks()
    return rows, next((part.struct for part in parts if part.struct), None)


def last(entries: Mapping[str, Entry], count: int) -> Mapping[str, Entry]:
    """The last `count` entries; the others of a column are not made into objects."""
    surplus = max(0, len(entries) - count)
    if isinstance(entries, Entries):
        return Entries(entries.rows.slice(surplus), entries.struct)
    return dict(islice(entries.items(), surplus, None))
