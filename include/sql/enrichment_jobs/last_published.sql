-- The batch of live draining that was published last, whichever lane it was of.
SELECT
    batch_id,
    dag_id,
    run_id,
    published_at,
    messages_read,
    source_builds
FROM enrichment_jobs
WHERE state = 'published'
  AND coalesce(purpose ->> 'kind', 'live') = 'live'
ORDER BY published_at DESC
LIMIT 1
