"""Context and risk from request: `request_id` and what the rules read in, the `business_` columns out.

A chunk is scored by its distinct combinations of request, place and profile. The context's JSON is written once per
request, the risk's once per set of fired rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from enrichment.caches.base import KeyLookup
from enrichment.caches.entries import Answers
from enrichment.codec.struct_columns import columns_of, fragments
from enrichment.enrichers.base import JSON, OK, STALE, STATUS, Enrichment, ask, frame_of, join, reasons_of
from enrichment.enrichers.business.risk import GEO_STATUS, USER_STATUS, Bools, Condition, Masks, RiskRules
from enrichment.messages import (
    BUSINESS_COLUMNS,
    GEO_COLUMNS,
    REQUEST_ID,
    USER_COLUMNS,
    Context,
    Risk,
    Source,
    column_names,
)

Codes = np.ndarray[Any, np.dtype[np.int64]]


class RequestRisks(NamedTuple):
    """The risk of each request of a chunk, as parallel lists: what the cache table keeps for its views."""

    request_ids: list[str]
    scores: list[float]
    levels: list[str]
    indicators: list[list[str]]


class BusinessEnricher:
    """Context and risk from request id. A request without context has no risk: all columns are null then."""

    name: str = Source.BUSINESS.value
    writes: tuple[str, ...] = BUSINESS_COLUMNS

    def __init__(self, lookup: KeyLookup, rules: RiskRules) -> None:
        self._contexts = lookup
        self._rules = rules
        self.reads: tuple[str, ...] = (
            REQUEST_ID, *(column for column in rules.columns if column in GEO_COLUMNS + USER_COLUMNS),
        )  # fmt: skip

    def look_up(self, events: pd.DataFrame) -> Answers:
        """See `Enricher`."""
        return ask(self._contexts, events[REQUEST_ID])

    def enrich(self, events: pd.DataFrame, answers: Answers, added: Mapping[str, Enrichment]) -> Enrichment:
        """See `Enricher`; what the geo and user enrichers added must be there, with its status."""
        context = join(events[REQUEST_ID], answers, Context)
        return self.score(context, added[Source.GEO], added[Source.USER])

    def contexts(self, events: pd.DataFrame) -> Enrichment:
        """The contexts alone."""
        return join(events[REQUEST_ID], self.look_up(events), Context)

    def score(self, context: Enrichment, geo: Enrichment, user: Enrichment) -> Enrichment:
        """Contexts with the risk that follows from them, from places and profiles."""
        codes, (of_context, of_geo, of_user) = combinations(context, geo, user)
        # Where a condition finds its column, and which of that column's rows belong to each combination.
        # A rule reads the reason, stale or not, as the message has it.
        tables = {
            GEO_STATUS: (reasons_of(geo.values[STATUS]), of_geo),
            USER_STATUS: (reasons_of(user.values[STATUS]), of_user),
        }
        for values, rows in ((context.values, of_context), (geo.values, of_geo), (user.values, of_user)):
            tables |= {name: (values[name], rows) for name in self._rules.columns if name in values}

        def holds(condition: Condition) -> Bools:
            column, rows = tables[condition.column]
            return condition.holds(column)[rows]

        masks = self._rules.fired(len(of_context), holds)
        # Mask -1 stands for no context: all null.
        masks[~_answered(context.values)[of_context]] = -1
        return Enrichment(
            codes, self._values(context.values, of_context, masks), context.fetched[of_context], context.counts
        )

    def _values(self, contexts: pd.DataFrame, of_context: Codes, masks: Masks) -> pd.DataFrame:
        distinct, of_risk = np.unique(masks, return_inverse=True)
        risks = [Risk() if mask < 0 else self._rules.risk_of(mask) for mask in distinct.tolist()]
        scored = columns_of(risks, Risk)
        of_contexts, of_risks = pa.array(of_context), pa.array(of_risk)
        columns = {
            name: pa.array(contexts[name].array).take(of_contexts) for name in (*column_names(Context), STATUS, JSON)
        }
        columns |= {name: column.take(of_risks) for name, column in scored.items()}
        columns[JSON] = pc.binary_join_element_wise(columns[JSON], fragments(scored).take(of_risks), pa.scalar(b","))
        return frame_of({name: columns[name] for name in (*self.writes, STATUS, JSON)})

    @staticmethod
    def risks(events: pd.DataFrame, business: Enrichment) -> RequestRisks:
        """The risk of each request whose context was fetched; the first row of a request speaks for it."""
        requests = events[REQUEST_ID].cat
        codes, first = np.unique(requests.codes.to_numpy(), return_index=True)
        combination = business.codes[first]
        scored = business.fetched[combination] & _answered(business.values)[combination]
        rows = business.values.take(combination[scored])
        return RequestRisks(
            requests.categories.take(codes[scored]).tolist(),
            rows["business_risk_score"].tolist(),
            rows["business_risk_level"].tolist(),
            [list(names) for names in rows["business_fraud_indicators"]],
        )


def combinations(
    context: Enrichment, geo: Enrichment, user: Enrichment
) -> tuple[np.ndarray[Any, Any], tuple[Codes, Codes, Codes]]:
    """The distinct triples of a chunk: for each row its combination, for each combination its row of the three values.

    Combination 0 is that of rows without a request. Without a context place and profile do not matter.
    """
    answered = _answered(context.values)[context.codes]
    places, profiles = len(geo.values), len(user.values)
    triples = context.codes.astype(np.int64) * (places * profiles)
    triples += np.where(answered, geo.codes.astype(np.int64) * profiles + user.codes, 0)
    codes, distinct = pd.factorize(np.concatenate(([0], triples)))
    of_context, rest = np.divmod(distinct, places * profiles)
    of_geo, of_user = np.divmod(rest, profiles)
    return codes[1:].astype(np.int32), (of_context, of_geo, of_user)


def _answered(contexts: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return contexts[STATUS].isin((OK, STALE)).to_numpy(dtype=bool)
