-- The rollups of a period that start in [starts_at, ends_at), as sums in JSON text: what a plot is made of.
SELECT
    starts_at,
    sums::text AS sums
FROM enrichment_rollups
WHERE period = %(period)s
  AND starts_at >= %(starts_at)s
  AND starts_at < %(ends_at)s
ORDER BY starts_at
