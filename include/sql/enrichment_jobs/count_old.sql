-- What a retention of `keep` finds: batches that were claimed longer ago, and how many of them were never published.
SELECT
    count(*) AS old,
    count(*) FILTER (WHERE state IN ('claimed', 'drained', 'failed') AND NOT dry_run) AS unpublished
FROM enrichment_jobs
WHERE claimed_at < now() - %(keep)s
  AND state IN ('claimed', 'drained', 'failed', 'published', 'dry-run')
