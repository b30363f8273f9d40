-- How many batches of this lane began at one of these offsets and never got through: claimed, drained or failed, not
-- published. `starts` is [{"partition", "start"}]; whoever claims at the same offsets again takes less each time.
SELECT count(*)
FROM enrichment_jobs
WHERE topic = %(topic)s
  AND group_id = %(group_id)s
  AND lane = %(lane)s
  AND state IN ('claimed', 'drained', 'failed')
  AND NOT dry_run
  AND EXISTS (
      SELECT 1
      FROM jsonb_array_elements(%(starts)s) AS start
      WHERE enrichment_jobs.ranges @> jsonb_build_array(start)
  )
