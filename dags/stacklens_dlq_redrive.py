"""Send dead letters in again, once each: those that may succeed by now, chosen by reason, time and source.

**Reads** topic `analytics-dlq` from its beginning, the markers of earlier redrives in `analytics-dlq-redriven`, and the
sources of every message. **Writes** topics `stacklens-analytics` and `analytics-dlq`, and in the same Kafka transaction
a marker for each dead letter to `analytics-dlq-redriven`; the cache tables, and a row of `enrichment_jobs`. A dry run
publishes nothing.

A run is a **dry run** unless the form says otherwise. `claim` scans all dead letters; its XCom `survey` counts them by
verdict, reason and detail: `redrive` (sent in now, or `waiting` for the next run), `parked` (tried too often), `left`
(with why). The messages of the chosen ones then go through the same tasks as in `stacklens_enrichment`, as they first
came: bytes, key, timestamp, headers, and their own origin. A message that fails again becomes a new dead letter with
one more attempt, and the old one is done. Dead letters are never deleted; their topic's retention does that.

**When it fails** nothing was published, and the dead letters are where they were. Any task may be cleared, and runs may
overlap: a dead letter that is marked is never sent in again. `OffsetsMoved`: another redrive took some of the dead
letters first; clear `drain` of the batch with everything downstream, and it takes the rest. `OffsetsLost`: dead letters
have left the log; trigger a new run. `SettingsError` about the topic of the markers: create it as it says.
`RedriveRefused`: a topic would not keep messages that old, or the markers belong to an earlier dead-letter topic; the
text says what to do.

**By hand** only. First a dry run; read the survey; then the same form with *Dry run* off. The page *StackLens* fills in
the form for the dead letters that it shows.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from enrichment.orchestration import common, redrive
from enrichment.orchestration.batches import enrich_batch


@dag(
    schedule=None,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=1),
    default_args=common.DEFAULT_ARGS,
    params=redrive.REDRIVE_PARAMS,
    description="Send dead letters in again, exactly once; a dry run unless told otherwise",
    doc_md=__doc__,
    tags=["stacklens", "dead-letters"],
)
def stacklens_dlq_redrive() -> None:
    """See the module: its text is the DAG's documentation."""
    enrich_batch.expand(batch=redrive.claim())


stacklens_dlq_redrive()
