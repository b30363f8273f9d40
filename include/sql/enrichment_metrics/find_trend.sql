-- What each stage did on each of the last seven days, the latest day first: what the rollup reports of the metrics.
SELECT
    day,
    stage,
    batches,
    messages,
    messages_per_second,
    p95_seconds,
    peak_rss_bytes
FROM v_enrichment_performance_trend
ORDER BY day DESC, stage
