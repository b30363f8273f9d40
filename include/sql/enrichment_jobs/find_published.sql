-- The batches of a topic and group that were published since a time, oldest first: what `make run` reports on.
SELECT
    batch_id,
    run_id,
    ranges,
    messages_read,
    cache_counts,
    durations,
    source_builds,
    warnings,
    published_at
FROM enrichment_jobs
WHERE state = 'published'
  AND published_at >= %(since)s
  AND topic = %(topic)s
  AND group_id = %(group_id)s
ORDER BY published_at, batch_id
