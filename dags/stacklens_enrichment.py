"""Drain log messages from Kafka, enrich them, and publish them for analytics, exactly once.

**Reads** topic `stacklens-enriched` (from the committed offsets of the group `stacklens-enrichment`), the geo database,
the user-profile API, the business tables. **Writes** topics `stacklens-analytics` and `analytics-dlq`, the cache
tables, a row of `enrichment_jobs` per batch and one of `enrichment_metrics` per stage of it, `enrichment_positions`,
`enrichment_lanes`, `circuit_breakers`, `enrichment_group_moves` where it goes on past lost offsets, and, where a source
failed, `enrichment_pending` and `enrichment_publications` for `stacklens_repair`; the minutes that have gone by, in
`enrichment_rollups`; warnings also in the run's note.

A run starts when messages wait, after one that left some, and every minute. `claim` fixes offset ranges, one batch per
lane, and enriches and publishes them itself where they are not too large (`KAFKA_AT_ONCE_MESSAGES`). Otherwise they run
side by side: `drain` reads and decodes, `geo` and `user` look up, `business` adds context and risk, `publish` writes
messages, dead letters and the group's offsets in one Kafka transaction; `clean` removes the staged files. Where `claim`
leaves no batch, these are skipped. The tab *StackLens* of a run or task opens its batches: counts, errors, and a check.

**When it fails** before `publish` has committed, the group's offsets have not moved, and the next run reads the same
messages again; after that, another try only completes the ledger. Any task may be cleared: a published batch is never
published twice. `StagingMissing` in a cleared task of a batch that was not published means: clear `drain` of the same
batch with everything downstream; in a new deployment, the workers do not share `ENRICHMENT_STAGING_URL`.
`OffsetsMoved` in `claim`: Kafka has forgotten the group's offsets, somebody moved them, the log was truncated, or the
topic was recreated; the text has a command for each way to go on. `LanesChanged`, or a `SettingsError` that names
`KAFKA_LANES`: the number of lanes belongs to the group and must be the same for all workers.

**By hand** trigger it with parameters: fewer messages, some partitions, or a dry run that publishes and commits
nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from enrichment.orchestration import common, live
from enrichment.orchestration.batches import enrich_batch


@dag(
    schedule=live.WHEN_MESSAGES_WAIT,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=1),
    default_args=common.DEFAULT_ARGS,
    params=live.LIVE_PARAMS,
    description="Drain, enrich and publish log messages, exactly once",
    doc_md=__doc__,
    tags=["stacklens", "enrichment"],
)
def stacklens_enrichment() -> None:
    """See the module: its text is the DAG's documentation."""
    enrich_batch.expand(batch=live.claim())


stacklens_enrichment()
