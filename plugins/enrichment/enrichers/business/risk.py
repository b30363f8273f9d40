"""Risk rules: columns of requests in, score, level and fraud indicators out. The rules are a TOML file.

The rules that fire for a row are a bit mask. Score, level and indicators follow from the mask alone, so they are made
once per distinct mask, however many rows have it.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from enrichment.codec.struct_columns import fields_of, not_null_type
from enrichment.enrichers.business import BUSINESS, DEFAULT_RULES, Context, Risk
from enrichment.enrichers.registry import REGISTRY, SCALARS
from enrichment.errors import SettingsError

MAX_RULES = 60  # bits of an int64 mask, and a few to spare

Masks = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


class Op(StrEnum):
    """What a condition does with its column."""

    MORE = ">"
    AT_LEAST = ">="
    LESS = "<"
    AT_MOST = "<="
    EQUAL = "=="
    UNEQUAL = "!="
    IN = "in"
    NOT_IN = "not_in"
    IS_NULL = "is_null"
    NOT_NULL = "not_null"


_COMPARE: dict[Op, Callable[[Any, Any], Any]] = {
    Op.MORE: pc.greater,
    Op.AT_LEAST: pc.greater_equal,
    Op.LESS: pc.less,
    Op.AT_MOST: pc.less_equal,
    Op.EQUAL: pc.equal,
    Op.UNEQUAL: pc.not_equal,
}
_ORDERED, _LISTS, _BARE = (Op.MORE, Op.AT_LEAST, Op.LESS, Op.AT_MOST), (Op.IN, Op.NOT_IN), (Op.IS_NULL, Op.NOT_NULL)
Scalar = int | float | str


def readable() -> dict[str, Any]:
    """What a rule may read, with its type: the context, and any column and status of an earlier enrichment."""
    earlier = REGISTRY.earlier(BUSINESS)
    structs: list[type[msgspec.Struct]] = [*(struct for enricher in earlier for struct in enricher.structs), Context]
    columns = {f.encode_name: not_null_type(f) for struct in structs for f in fields_of(struct)}
    statuses = dict.fromkeys((enricher.status_column for enricher in earlier), str)
    return {name: kind for name, kind in (columns | statuses).items() if kind in SCALARS}


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One comparison of one column. False on null, except for `is_null`."""

    column: str
    op: Op
    value: Scalar | tuple[Scalar, ...] | None = None

    def __post_init__(self) -> None:
        known = readable()
        if self.column not in known:
            raise ValueError(f"column: {self.column!r} is none of {', '.join(sorted(known))}")
        is_number = known[self.column] is not str
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        if self.op in _BARE:
            if self.value is not None:
                raise ValueError(f"value: {self.op} takes none")
            return
        if isinstance(self.value, tuple) != (self.op in _LISTS):
            raise ValueError(f"value: {self.op} takes {'a list' if self.op in _LISTS else 'a single value'}")
        if self.op in _ORDERED and not is_number:
            raise ValueError(f"op: {self.op} needs a column of numbers, {self.column} is text")
        kind: Any = (int, float) if is_number else str
        if not all(isinstance(value, kind) for value in values):
            raise ValueError(f"value: {self.column} takes {'numbers' if is_number else 'text'}")

    def holds(self, column: pd.Series[Any]) -> Bools:
        """Where it holds, a value for each row."""
        # By Arrow itself: what pandas does around each of these takes longer than they do.
        values = pa.Array.from_pandas(column)
        if self.op in _BARE:
            held = values.is_valid() if self.op is Op.NOT_NULL else values.is_null()
        elif isinstance(self.value, tuple):
            listed = _is_in(values, pa.array(self.value))
            held = listed if self.op is Op.IN else pc.and_(values.is_valid(), pc.invert(listed))
        else:
            held = pc.fill_null(_COMPARE[self.op](values, self.value), False)
        found: Bools = held.to_numpy(zero_copy_only=False)
        return found


def _is_in(values: pa.Array, listed: pa.Array) -> pa.Array:
    """Where a value is one of those listed: integers for a column of fractions, too, and the other way round."""
    if pa.types.is_floating(listed.type):
        return pc.is_in(values.cast(listed.type, safe=False), listed)
    return pc.is_in(values, listed.cast(values.type))


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fraud indicator: adds `weight` to the score where all conditions hold."""

    name: str
    weight: float
    when: tuple[Condition, ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name: is empty")
        if not 0 <= self.weight < math.inf:
            raise ValueError("weight: must be 0 or more")
        if not self.when:
            raise ValueError("when: needs at least one condition")


class Levels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lowest score of each level."""

    low: float
    medium: float
    high: float
    critical: float

    def __post_init__(self) -> None:
        bounds = msgspec.structs.astuple(self)
        if bounds[0] != 0 or list(bounds) != sorted(bounds):
            raise ValueError("must rise from low = 0.0")

    def of(self, score: float) -> str:
        """The highest level that the score reaches."""
        return [name for name, bound in msgspec.structs.asdict(self).items() if score >= bound][-1]


class RiskRules:
    """The rules of one file. Build with `load`; `columns` are those that the conditions read."""

    def __init__(self, base_score: float, levels: Levels, rules: list[Rule]) -> None:
        self.base_score = base_score
        self.levels = levels
        self.rules = tuple(rules)
        self.columns = tuple(sorted({condition.column for rule in rules for condition in rule.when}))
        self._risks: dict[int, Risk] = {}

    @classmethod
    def load(cls, path: str | Path = "") -> RiskRules:
        """Read and check a file; an empty path means the rules beside the code. Raises `SettingsError` naming the file,
        the rule and the key."""
        file = Path(path or DEFAULT_RULES)
        try:
            document = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as unreadable:
            raise SettingsError(f"BUSINESS_RISK_RULES_PATH={str(file)!r}: {unreadable}") from unreadable
        try:
            return cls._checked(document)
        except SettingsError as wrong:
            raise SettingsError(f"BUSINESS_RISK_RULES_PATH={str(file)!r}: {wrong}") from wrong

    @classmethod
    def _checked(cls, document: dict[str, Any]) -> RiskRules:
        unknown = sorted(document.keys() - {"base_score", "levels", "rules"})
        if unknown:
            raise SettingsError(f"unknown key {unknown[0]!r}")
        base_score = _convert(document.get("base_score"), float, "base_score")
        if not 0 <= base_score <= 1:
            raise SettingsError("base_score: must be from 0 to 1")
        levels = _convert(document.get("levels"), Levels, "levels")
        tables = _convert(document.get("rules"), list[dict[str, Any]], "rules")
        if len(tables) > MAX_RULES:
            raise SettingsError(f"rules: {len(tables)} of them, at most {MAX_RULES} fit")
        rules = [_convert(t, Rule, f"rule {t.get('name', f'number {i}')!r}") for i, t in enumerate(tables, start=1)]
        names = [rule.name for rule in rules]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise SettingsError(f"rule {twice!r}: name: is used twice")
        return cls(base_score, levels, rules)

    def fired(self, rows: int, holds: Callable[[Condition], Bools]) -> Masks:
        """For each row the rules that fire: bit i is rule i. `holds` says for each row where a condition holds."""
        masks = np.zeros(rows, dtype=np.int64)
        held = {condition: holds(condition) for rule in self.rules for condition in rule.when}
        for bit, rule in enumerate(self.rules):
            fires = np.logical_and.reduce([held[condition] for condition in rule.when])
            masks |= fires.astype(np.int64) << bit
        return masks

    def risk_of(self, mask: int) -> Risk:
        """Score, level and indicators of a set of fired rules."""
        if mask not in self._risks:
            fired = [rule for bit, rule in enumerate(self.rules) if mask >> bit & 1]
            score = round(min(1.0, self.base_score + math.fsum(rule.weight for rule in fired)), 2)
            self._risks[mask] = Risk(score, self.levels.of(score), tuple(rule.name for rule in fired))
        return self._risks[mask]

    def score(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Score, level, and `fired`, the mask, for each row of a frame that has `columns`."""
        masks = self.fired(len(frame), lambda condition: condition.holds(frame[condition.column]))
        distinct, codes = np.unique(masks, return_inverse=True)
        risks = [self.risk_of(mask) for mask in distinct.tolist()]
        columns = {
            "business_risk_score": np.array([risk.risk_score for risk in risks], dtype=float)[codes],
            "business_risk_level": pd.array([risk.risk_level for risk in risks], dtype="str").take(codes),
            "fired": masks,
        }
        return pd.DataFrame(columns, index=frame.index)


def _convert(value: Any, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as wrong:
        raise SettingsError(f"{where}: {wrong}") from wrong
