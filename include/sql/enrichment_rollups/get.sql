-- One minute's, hour's or day's rollup, as sums.
SELECT
    sums,
    contents
FROM enrichment_rollups
WHERE period = %(period)s
  AND starts_at = %(starts_at)s
