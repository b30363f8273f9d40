-- For how long the offsets at which this batch starts have been claimed and not published, by this batch or one before
-- it: what a hold's deadline is measured by. `starts` is [{"partition", "start"}].
SELECT extract(EPOCH FROM now() - min(claimed_at))::double precision AS seconds
FROM enrichment_jobs
WHERE topic = %(topic)s
  AND group_id = %(group_id)s
  AND lane = %(lane)s
  AND state IN ('claimed', 'drained', 'failed')
  AND NOT dry_run
  AND EXISTS (
      SELECT 1
      FROM jsonb_to_recordset(ranges) AS held (partition integer, start bigint, "end" bigint)
      INNER JOIN jsonb_to_recordset(%(starts)s) AS claimed (partition integer, start bigint)
          ON claimed.partition = held.partition
      WHERE claimed.start >= held.start
        AND claimed.start < held."end"
  )
