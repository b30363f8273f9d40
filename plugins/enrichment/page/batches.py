"""The tab *Batches*: the ledger, a page at a time, and one batch with all that is known of it."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from enrichment.batch import OffsetRange, label_of
from enrichment.conservation.one_batch import why_unchecked
from enrichment.inspection.asked import Conservation
from enrichment.page.reading import Reader, as_json, encoded, may_read_messages
from enrichment.page.scans import Scans
from enrichment.repair.pending import PendingStore, Publication
from enrichment.repair.unrepaired import UnrepairedSource
from enrichment.statements import Statements
from enrichment.store.jobs import Change, Job, JobState, Ledger

ROWS = 50
# What a filter without an index may look at in one request: a tenth of a second's work.
SCANNED = 20_000
CHANGES = 100
ANOTHER_CHECK = "another batch is being checked: wait until that is done, a few seconds, and try again"


class LedgerRow(msgspec.Struct, frozen=True):
    """A batch as `enrichment_jobs/find_page` has it. One that does not match is the last of those looked at."""

    batch_id: str
    dag_id: str
    run_id: str
    lane: int
    topic: str
    ranges: tuple[OffsetRange, ...]
    kind: str
    state: JobState
    dry_run: bool
    attempts: int
    messages_read: int | None
    messages_enriched: int | None
    messages_partial: int | None
    messages_dead: int | None
    warnings: int
    error: str | None
    claimed_at: datetime
    published_at: datetime | None
    is_match: bool
    is_last_scanned: bool


class ListedBatch(msgspec.Struct, frozen=True):
    """A row of the list, with what Airflow's UI calls the batch."""

    label: str
    batch: LedgerRow


class Cursor(msgspec.Struct, frozen=True):
    """Where a list goes on: before this batch."""

    before_at: datetime
    before_id: str


class BatchesPage(msgspec.Struct, frozen=True):
    """Batches, newest first. `next` is missing where there are no more; `is_cut` says that the search for rows ended at
    its limit, at the time of `next`, and not because the page was full."""

    batches: list[ListedBatch]
    next: Cursor | None
    is_cut: bool


class StageMetrics(msgspec.Struct, frozen=True):
    """What a stage of a batch did and took."""

    stage: str
    messages: int
    seconds: float
    peak_rss_bytes: int | None
    recorded_at: datetime


class BatchView(msgspec.Struct, frozen=True):
    """All that is known of a batch. `unchecked` is why its conservation check cannot be made; `has_earlier_changes`:
    there are more changes than are shown, newest first."""

    label: str
    kind: str
    job: Job
    stages: list[StageMetrics]
    changes: list[Change]
    has_earlier_changes: bool
    pending: list[UnrepairedSource]
    publications: list[Publication]
    unchecked: str


def list_batches(
    statements: Statements, filters: dict[str, Any], rows: int = ROWS, scanned: int = SCANNED
) -> BatchesPage:
    """A page of the ledger. `filters` has all parameters of `enrichment_jobs/find_page` but its limits."""
    parameters = {**filters, "rows": rows + 1, "scanned": scanned}
    found = statements.rows("enrichment_jobs/find_page", LedgerRow, parameters)
    matching = [row for row in found if row.is_match]
    shown = [ListedBatch(label_of(row.kind, row.lane, row.ranges), row) for row in matching[:rows]]
    is_cut = len(matching) <= rows and any(row.is_last_scanned for row in found)
    last = found[-1] if is_cut else shown[-1].batch if len(matching) > rows else None
    return BatchesPage(shown, None if last is None else Cursor(last.claimed_at, last.batch_id), is_cut)


def view_batch(statements: Statements, ledger: Ledger, pending: PendingStore, batch_id: str) -> BatchView | None:
    """All that is known of a batch; None for one that the ledger does not have."""
    job = ledger.get(batch_id)
    if job is None:
        return None
    of = {"batch_id": batch_id}
    changes = ledger.changes(batch_id, CHANGES + 1)
    return BatchView(
        label=job.batch.label,
        kind=job.purpose.kind,
        job=job,
        stages=statements.rows("enrichment_metrics/of_batch", StageMetrics, of),
        changes=changes[:CHANGES],
        has_earlier_changes=len(changes) > CHANGES,
        pending=statements.rows("enrichment_pending/of_batch", UnrepairedSource, of),
        publications=pending.publications(batch_id),
        unchecked=why_unchecked(job.batch, is_published=job.is_published),
    )


def routes(reader: Reader, scans: Scans) -> APIRouter:
    """The routes of this tab."""
    router = APIRouter()
    checking = asyncio.Lock()

    @router.get("/batches")
    def batches(
        state: JobState | None = None,
        kind: Annotated[str | None, Query(max_length=40)] = None,
        dag_id: str | None = None,
        run_id: str | None = None,
        lane: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
        topic: str | None = None,
        partition: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
        offset: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before_at: datetime | None = None,
        before_id: str = "",
    ) -> Response:
        if offset is not None and partition is None:
            raise HTTPException(422, "an offset says nothing without its partition: name both")
        filters = {
            "state": state, "kind": kind, "dag_id": dag_id, "run_id": run_id, "lane": lane, "topic": topic,
            "partition": partition, "offset": offset, "since": since, "until": until,
            "before_at": before_at, "before_id": before_id,
        }  # fmt: skip
        with reader.connection() as connection:
            return as_json(list_batches(Statements(connection), filters))

    @router.get("/batch")
    def batch(id: str) -> Response:  # noqa: A002  the name in the address
        with reader.connection() as connection:
            found = view_batch(Statements(connection), Ledger(connection), PendingStore(connection), id)
        if found is None:
            raise HTTPException(404, f"the ledger has no batch {id}: it may have been deleted since")
        return as_json(found)

    @router.get("/batch/check", dependencies=[may_read_messages()])
    async def check(request: Request, id: str) -> Response:  # noqa: A002  the name in the address
        job = await run_in_threadpool(job_of, id)
        if why := why_unchecked(job.batch, is_published=job.is_published):
            raise HTTPException(409, f"this batch cannot be checked by itself: {why}")
        if checking.locked():  # one at a time: it takes up to twenty seconds
            raise HTTPException(429, ANOTHER_CHECK)
        async with checking:
            return encoded(await scans.run(Conservation(job.batch, job.claimed_at, bool(job.messages_dead)), request))

    def job_of(batch_id: str) -> Job:
        with reader.connection() as connection:
            job = Ledger(connection).get(batch_id)
        if job is None:
            raise HTTPException(404, f"the ledger has no batch {batch_id}: it may have been deleted since")
        return job

    return router
