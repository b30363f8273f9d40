-- Hours of the last seven full days that have no rollup, from the first one that ever had: what a backfill would fill.
SELECT hour AS starts_at
FROM generate_series(
    greatest(
        date_trunc('hour', %(until)s::timestamptz - interval '7 days', 'UTC'),
        (SELECT coalesce(min(starts_at), %(until)s) FROM enrichment_rollups WHERE period = 'hour')
    ),
    %(until)s::timestamptz - interval '1 hour',
    interval '1 hour'
) AS hour
WHERE NOT EXISTS (
    SELECT 1
    FROM enrichment_rollups
    WHERE period = 'hour'
      AND starts_at = hour
)
ORDER BY hour
