-- Batches of live draining that a group has claimed and that may still be published: later ones had the messages of the others, which
-- stay failed for as long as they are kept.
SELECT
    batch_id,
    topic,
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
  AND EXISTS (
    SELECT
    FROM jsonb_to_recordset(enrichment_jobs.ranges) AS held (partition integer, "end" bigint)
    LEFT JOIN enrichment_positions AS reached
      ON reached.topic = enrichment_jobs.topic
     AND reached.group_id = enrichment_jobs.group_id
     AND reached.partition = held.partition
    WHERE reached.next_offset IS NULL
       OR reached.next_offset < held."end"
       OR reached.topic_id <> enrichment_jobs.topic_id
  )
ORDER BY claimed_at, batch_id
