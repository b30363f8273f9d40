-- How many days are older than `keep`.
SELECT count(*) AS old
FROM enrichment_rollups
WHERE period = 'day'
  AND starts_at < date_trunc('day', now() - %(keep)s, 'UTC')
