-- The batches of the live stream that were published in [starts_at, ends_at), each with what its stages did: what the
-- rollup of an hour or a minute is made of. Dry runs, replays and redrives are not the live stream.
SELECT
    claimed_at,
    published_at,
    messages_read,
    messages_enriched,
    messages_partial,
    messages_dead,
    coalesce(value_bytes, 0) AS value_bytes,
    errors_by_reason,
    cache_counts,
    lag,
    (
        SELECT coalesce(
            jsonb_object_agg(
                stage,
                jsonb_build_object(
                    'messages', messages,
                    'seconds', seconds,
                    'freshness', counts -> 'freshness',
                    'peak_rss_bytes', peak_rss_bytes,
                    'contents', CASE WHEN %(contents)s THEN counts -> 'contents' END
                )
            ),
            '{}'
        )
        FROM enrichment_metrics
        WHERE enrichment_metrics.batch_id = enrichment_jobs.batch_id
    ) AS stages
FROM enrichment_jobs
WHERE state = 'published'
  AND published_at >= %(starts_at)s
  AND published_at < %(ends_at)s
  AND coalesce(purpose ->> 'kind', 'live') = 'live'
