-- Redrives of a dead-letter topic that are claimed and not published, for a person who looks at one of its dead letters.
SELECT
    batch_id,
    topic,
    topic_id,
    ranges,
    purpose
FROM enrichment_jobs
WHERE state IN ('claimed', 'drained', 'failed')
  AND group_id = %(group_id)s
  AND purpose <> '{}'
  AND NOT dry_run
ORDER BY claimed_at, batch_id
