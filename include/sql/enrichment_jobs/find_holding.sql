-- The last batches of live draining that a group has claimed and not published, and that hold this offset.
SELECT
    batch_id,
    ranges
FROM enrichment_jobs
WHERE state IN ('claimed', 'drained', 'failed')
  AND topic = %(topic)s
  AND group_id = %(group_id)s
  AND purpose = '{}'
  AND NOT dry_run
  AND EXISTS (
    SELECT
    FROM jsonb_to_recordset(ranges) AS held (partition integer, start bigint, "end" bigint)
    WHERE held.partition = %(partition)s
      AND held.start <= %(offset)s
      AND held."end" > %(offset)s
  )
ORDER BY claimed_at DESC, batch_id
LIMIT %(most)s
