"""Risk from context: the context of a request and what earlier enrichments added in, the computed columns out.

A chunk is scored by its distinct combinations of request and what the rules read of earlier enrichments. The context's
JSON is written once per request, the risk's once per set of fired rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from enrichment import sql
from enrichment.codec.struct_columns import arrow_types, columns_of, fragments
from enrichment.enrichers.base import (
    JSON,
    STATUS,
    CheckedCondition,
    CheckedRule,
    Enrichment,
    Explanation,
    frame_of,
    keys_of,
    reasons_of,
)
from enrichment.enrichers.business import BUSINESS, QUERY, BusinessSettings, Context, Risk
from enrichment.enrichers.business.query import business_query
from enrichment.enrichers.business.recorded_risk import RequestRisks, RiskTable
from enrichment.enrichers.business.risk import Bools, Condition, Masks, RiskRules
from enrichment.enrichers.registry import OK, REGISTRY, STALE
from enrichment.enrichers.wiring import OpenedSource, Site
from enrichment.messages import REQUEST_ID

Codes = np.ndarray[Any, np.dtype[np.int64]]
LARGEST = 2**63
ANSWERED = (OK, STALE)


def open_source(site: Site, settings: BusinessSettings) -> OpenedSource:
    """The query over the users' own tables, and the risk rules. Raises `SettingsError` for invalid rules."""
    scorer = RiskScorer(RiskRules.load(settings.rules_file))
    timeout = settings.query_timeout_sec
    source = business_query(partial(site.query_connection, timeout), sql.load(QUERY), timeout_seconds=timeout)
    site.at_end(source.close)
    table = RiskTable(site.cache_connection, site.cache_pause_sec)
    site.at_end(table.close)
    return OpenedSource(source, derivation=scorer, on_chunk=partial(_record, table))


def _record(table: RiskTable, events: pd.DataFrame, scored: Enrichment) -> None:
    """Keep the risks of a chunk for the views. A database that is down costs only that."""
    risks = risks_of(events, scored)
    if len(risks.request_ids):
        table.record(risks)


class RiskScorer:
    """A `Derivation`. A request without context has no risk: all columns are null then."""

    def __init__(self, rules: RiskRules) -> None:
        self._rules = rules

    def derive(self, answered: Enrichment, earlier: Mapping[str, Enrichment]) -> Enrichment:
        """See `Derivation`."""
        codes, of_context, tables = self._combined(answered, earlier)

        def holds(condition: Condition) -> Bools:
            column, rows = tables[condition.column]
            return condition.holds(column)[rows]

        masks = self._rules.fired(len(of_context), holds)
        # Mask -1 stands for no context: all null.
        masks[~answered.have(ANSWERED)[of_context]] = -1
        return Enrichment(
            codes, self._values(answered.values, of_context, masks), answered.fetched[of_context], answered.counts
        )

    def explain(self, answered: Enrichment, earlier: Mapping[str, Enrichment], row: int) -> Explanation:
        """See `ExplainedDerivation`."""
        codes, of_context, tables = self._combined(answered, earlier)
        code = int(codes[row])
        has_context = bool(answered.have(ANSWERED)[of_context[code]])
        rules = []
        for rule in self._rules.rules:
            checked = [_checked(condition, *tables[condition.column], code) for condition in rule.when]
            has_fired = has_context and all(condition.holds for condition in checked)
            rules.append(CheckedRule(rule.name, rule.weight, has_fired, checked))
        base = f"the score begins at {self._rules.base_score:g}"
        return Explanation(rules, base if has_context else "a request without context has no risk: no rule fires")

    def _combined(
        self, answered: Enrichment, earlier: Mapping[str, Enrichment]
    ) -> tuple[np.ndarray[Any, np.dtype[np.int32]], Codes, dict[str, tuple[pd.Series[Any], Codes]]]:
        """For each row its combination, for each combination its row of the context's values, and where a condition
        finds its column, with the row of it that belongs to each combination."""
        read = {
            enricher: earlier[enricher.name]
            for enricher in REGISTRY.earlier(BUSINESS)
            if not {enricher.status_column, *enricher.output_columns}.isdisjoint(self._rules.columns)
        }
        codes, (of_context, *of_read) = combinations(answered, list(read.values()))
        tables = {name: (answered.values[name], of_context) for name in self._rules.columns if name in answered.values}
        for (enricher, added), rows in zip(read.items(), of_read, strict=True):
            tables |= {name: (added.values[name], rows) for name in self._rules.columns if name in added.values}
            # A rule reads the reason, stale or not, as the message has it.
            tables[enricher.status_column] = reasons_of(added.values[STATUS]), rows
        return codes, of_context, tables

    def _values(self, contexts: pd.DataFrame, of_context: Codes, masks: Masks) -> pd.DataFrame:
        distinct, of_risk = np.unique(masks, return_inverse=True)
        risks = [Risk() if mask < 0 else self._rules.risk_of(mask) for mask in distinct.tolist()]
        scored = columns_of(risks, Risk)
        of_contexts, of_risks = pa.array(of_context), pa.array(of_risk)
        columns = {
            name: pa.array(contexts[name].array).take(of_contexts) for name in (*arrow_types(Context), STATUS, JSON)
        }
        columns |= {name: column.take(of_risks) for name, column in scored.items()}
        columns[JSON] = pc.binary_join_element_wise(columns[JSON], fragments(scored).take(of_risks), pa.scalar(b","))
        return frame_of({name: columns[name] for name in (*BUSINESS.output_columns, STATUS, JSON)})


def _checked(condition: Condition, column: pd.Series[Any], rows: Codes, code: int) -> CheckedCondition:
    place = int(rows[code])
    value = column.iloc[place]
    compared = "" if condition.value is None else f" {msgspec.json.encode(condition.value).decode()}"
    told = f"{condition.column} {condition.op}{compared}"
    return CheckedCondition(told, None if pd.isna(value) else value, bool(condition.holds(column)[place]))


def risks_of(events: pd.DataFrame, scored: Enrichment) -> RequestRisks:
    """The risk of each request of a chunk whose context was fetched; the first row of a request speaks for it."""
    requests = keys_of(events, REQUEST_ID)
    is_new = scored.fetched & scored.have(ANSWERED)
    codes = pc.fill_null(requests.indices, -1).to_numpy() + 1
    first = first_rows(codes, len(requests.dictionary) + 1)[1:] if is_new.any() else np.empty(0, dtype=np.int64)
    combination = scored.codes[first]
    chosen = np.flatnonzero(is_new[combination])
    rows = pa.array(combination[chosen])
    return RequestRisks(
        requests.dictionary.take(pa.array(chosen)),
        *(pa.array(scored.values[name].array).take(rows) for name in arrow_types(Risk)),
    )


def combinations(
    context: Enrichment, others: Sequence[Enrichment]
) -> tuple[np.ndarray[Any, np.dtype[np.int32]], list[Codes]]:
    """The distinct combinations of a chunk: for each row its combination, for each combination its row of the context's
    values and of each other's.

    Combination 0 is that of rows without a request. Without a context the others do not matter.
    """
    is_answered = context.have(ANSWERED)[context.codes]
    parts: list[Codes] = [np.concatenate(([0], context.codes.astype(np.int64)))]
    parts += [np.concatenate(([0], np.where(is_answered, other.codes, 0).astype(np.int64))) for other in others]
    combined, numbers = parts[0], len(context.values)
    for part, other in zip(parts[1:], others, strict=True):
        if numbers * len(other.values) >= LARGEST:
            combined = pd.factorize(combined)[0].astype(np.int64)
            numbers = int(combined.max()) + 1
        combined = combined * len(other.values) + part
        numbers *= len(other.values)
    codes, distinct = pd.factorize(combined)
    first = first_rows(codes, len(distinct))
    return codes[1:].astype(np.int32), [part[first] for part in parts]


def first_rows(codes: np.ndarray[Any, Any], count: int) -> Codes:
    """The first row of each of `count` codes; 0 for one that no row has."""
    first = np.zeros(count, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # the last one to be written stays
    return first
