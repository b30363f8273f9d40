-- How many windows were only counted, in a dry run longer ago than `keep`.
SELECT count(*) AS old
FROM enrichment_replays
WHERE state = 'counted'
  AND counted_at < now() - %(keep)s
