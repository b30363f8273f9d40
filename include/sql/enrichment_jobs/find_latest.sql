-- The ranges of the batch that a lane claimed last: whose turn it was, where some of its partitions are suspects.
SELECT ranges
FROM enrichment_jobs
WHERE topic = %(topic)s
  AND group_id = %(group_id)s
  AND lane = %(lane)s
  AND NOT dry_run
ORDER BY claimed_at DESC
LIMIT 1
