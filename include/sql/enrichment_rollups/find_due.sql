-- The last full minutes without a rollup, `minutes` of them at most: what a run rolls up when it has published. A batch that
-- has just been published may not be visible for a moment, so a minute is full once it has been over for five seconds.
SELECT minute AS starts_at
FROM generate_series(
    greatest(
        date_trunc('minute', now() - interval '5 seconds', 'UTC') - %(minutes)s * interval '1 minute',
        (SELECT max(starts_at) FROM enrichment_rollups WHERE period = 'minute') + interval '1 minute'
    ),
    date_trunc('minute', now() - interval '5 seconds', 'UTC') - interval '1 minute',
    interval '1 minute'
) AS minute
ORDER BY minute
