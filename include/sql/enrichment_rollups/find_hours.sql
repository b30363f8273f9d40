-- The hours of [starts_at, ends_at) that are rolled up, as sums: what a day is added up from.
SELECT
    sums,
    contents
FROM enrichment_rollups
WHERE period = 'hour'
  AND starts_at >= %(starts_at)s
  AND starts_at < %(ends_at)s
ORDER BY starts_at
