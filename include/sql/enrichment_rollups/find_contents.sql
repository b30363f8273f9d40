-- The rollups of a period that start in [starts_at, ends_at), by what their messages held: without the sums, which are large.
SELECT
    starts_at,
    batches,
    messages,
    error_rates,
    contents::text AS contents
FROM enrichment_rollups
WHERE period = %(period)s
  AND starts_at >= %(starts_at)s
  AND starts_at < %(ends_at)s
ORDER BY starts_at
