-- What each batch of the live stream that was published in [starts_at, ends_at) adds to the hour's service levels, and its run: where
-- to look when the hour missed one.
SELECT
    dag_id,
    run_id,
    messages_read AS messages,
    messages_partial + messages_dead AS errors,
    (
        SELECT coalesce(sum((counted.value ->> 'misses')::bigint), 0)::bigint
        FROM jsonb_each(cache_counts) AS counted
    ) AS misses,
    (
        SELECT coalesce(sum(left_behind.value::bigint), 0)::bigint
        FROM jsonb_each_text(lag) AS left_behind
    ) AS left_behind,
    (
        SELECT counts -> 'freshness'
        FROM enrichment_metrics
        WHERE enrichment_metrics.batch_id = enrichment_jobs.batch_id
          AND counts ? 'freshness'
        LIMIT 1
    ) AS freshness
FROM enrichment_jobs
WHERE state = 'published'
  AND published_at >= %(starts_at)s
  AND published_at < %(ends_at)s
  AND purpose = '{}'
ORDER BY published_at, batch_id
