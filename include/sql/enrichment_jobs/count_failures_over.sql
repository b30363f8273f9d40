-- How many batches of this lane that reached over one of these offsets failed by what they hold. `starts` is
-- [{"partition", "start"}]; whoever claims there again takes less each time.
SELECT count(*)
FROM enrichment_jobs
WHERE topic = %(topic)s
  AND group_id = %(group_id)s
  AND lane = %(lane)s
  AND state = 'failed'
  AND EXISTS (
      SELECT 1
      FROM jsonb_to_recordset(ranges) AS held (partition integer, start bigint, "end" bigint)
      INNER JOIN jsonb_to_recordset(%(starts)s) AS claimed (partition integer, start bigint)
          ON claimed.partition = held.partition
      WHERE claimed.start >= held.start
        AND claimed.start < held."end"
  )
