"""Publish corrections for messages that were published partial because a source failed, once it answers.

**Reads** tables `enrichment_pending` and `enrichment_publications`, the batches' own messages where they were published
(`stacklens-analytics`, or the output topic of a replay), and the sources that they are missing: the geo database, the
user-profile API, the business tables. **Writes** to the same topic: the same message with the same key, timestamp and
origin, and a header `stacklens-revision` that is higher by one; the results into these tables; the cache tables.

`plan` finds the batches that are due; with nothing pending this costs one query. `correct` makes a pass over each: it
reads the batch's messages back, looks up only what is missing, computes the risk again from what is then known, and
publishes in one transaction, exactly once. A source that is still down ends the pass at once; the next attempt waits a
minute, then twice as long each time, up to an hour. Where it was not down but failed for a few keys, there are 5
attempts over two hours, and no task is red when they have failed.

**When it fails** `RepairIncomplete`: messages stay partial. `lost`: they left the log before their source was back
(lengthen the topic's retention; run `stacklens_replay` while the input is still there). `given-up`: every attempt
failed (`ENRICHMENT_REPAIR_ATTEMPTS`); `unrepairable`: the topic refuses the corrections. Once the cause is fixed, set
`state = 'open', attempts = 0` in their row of `enrichment_pending`. Anything else: clear the task, or wait for the next
run. Nothing is published twice.

**By hand** trigger it for one batch, one source, or all that is due. It is then a **dry run**, which counts what would
be corrected, unless *Dry run* is off; scheduled runs publish.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from enrichment.orchestration import common, repair


@dag(
    schedule=repair.EVERY_FIVE_MINUTES,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=1),
    default_args=common.DEFAULT_ARGS,
    params=repair.REPAIR_PARAMS,
    description="Correct messages that were published without an answer of a source",
    doc_md=__doc__,
    tags=["stacklens", "repair"],
)
def stacklens_repair() -> None:
    """See the module: its text is the DAG's documentation."""
    repair.repair_batch.expand(planned=repair.plan())


stacklens_repair()
