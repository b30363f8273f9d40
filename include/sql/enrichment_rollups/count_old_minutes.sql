-- How many minutes are older than `keep`.
SELECT count(*) AS old
FROM enrichment_rollups
WHERE period = 'minute'
  AND starts_at < now() - %(keep)s
