-- What each stage of one batch did and took, in the order in which they were recorded.
SELECT
    stage,
    messages,
    seconds,
    peak_rss_bytes,
    recorded_at
FROM enrichment_metrics
WHERE batch_id = %(batch_id)s
ORDER BY recorded_at, stage
