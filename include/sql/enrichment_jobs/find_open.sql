-- Batches of live draining that a group has claimed and that may still be published.
SELECT
    batch_id,
    topic,
    topic_id,
    ranges,
    dag_id,
    run_id,
    lane,
    state,
    attempts,
    claimed_at,
    error
FROM enrichment_jobs
WHERE state IN ('claimed', 'drained', 'failed')
  AND group_id = %(group_id)s
  AND purpose = '{}'
  AND NOT dry_run
ORDER BY claimed_at, batch_id
