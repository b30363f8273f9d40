-- How many metrics were recorded longer ago than `keep`.
SELECT count(*) AS old
FROM enrichment_metrics
WHERE recorded_at < now() - %(keep)s
