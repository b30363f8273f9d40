"""Replay past windows of the input topic through the tasks of live draining: an Airflow backfill makes the runs.

**Reads** topic `stacklens-enriched`: of each run's data interval the messages with a Kafka timestamp in it, from the
window's first message to the log's end as it was when the run planned it; for the comparison also what was published
before. **Writes** topics `stacklens-analytics-replay` (or another that you name) and `analytics-dlq-replay`, the cache
tables, a row of `enrichment_jobs` per batch and one of `enrichment_replays` per window. The group of live draining is
not touched, and neither are its topics, unless you name one.

`plan` counts the window and cuts it into batches; each batch waits for its `turn` and goes through the same tasks as a
live one; `report` has the result of the window and how the replayed output differs from what was published before.

**When it fails** clear the whole run: each window is published once under a replay id, and goes on where it stopped.
`WindowLost`: the log no longer holds the window, or not all of it; its text says where the log begins. `ReplayRefused`:
its text says what to change, such as a topic that would not keep messages that old. Runs that stay queued: the pool
`stacklens_replay` is missing.

**By hand** create a backfill over the past you want, first as it is (a dry run counts), then with *Dry run* off and the
existing runs reprocessed. A single run by hand replays the last whole window before its logical date.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from enrichment.orchestration import replay


@dag(
    schedule=replay.by_window(),
    start_date=datetime(2000, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=12),
    default_args=replay.REPLAY_ARGS,
    params=replay.REPLAY_PARAMS,
    description="Replay past windows of the input topic, each once per replay id",
    doc_md=__doc__,
    tags=["stacklens", "replay"],
)
def stacklens_replay() -> None:
    """See the module: its text is the DAG's documentation."""
    replay.replay_batch.expand(batch=replay.plan()) >> replay.report()


stacklens_replay()
