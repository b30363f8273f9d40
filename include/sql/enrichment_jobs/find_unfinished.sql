-- The batches of live draining that are claimed and not published, the oldest first: at work, tried again, or failed.
SELECT
    batch_id,
    dag_id,
    run_id,
    lane,
    state,
    attempts,
    claimed_at,
    error
FROM enrichment_jobs
WHERE state IN ('claimed', 'drained', 'failed')
  AND topic = %(topic)s
  AND group_id = %(group_id)s
  AND purpose = '{}'
  AND NOT dry_run
ORDER BY claimed_at, batch_id
LIMIT %(row_limit)s
