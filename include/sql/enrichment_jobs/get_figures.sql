-- A published batch with what each of its stages did: what the metrics of the batch are made of.
SELECT
    lane,
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
                    'peak_rss_bytes', peak_rss_bytes,
                    'freshness', counts -> 'freshness'
                )
            ),
            '{}'
        )
        FROM enrichment_metrics
        WHERE enrichment_metrics.batch_id = enrichment_jobs.batch_id
    ) AS stages
FROM enrichment_jobs
WHERE batch_id = %(batch_id)s
  AND state = 'published'
