-- How many windows were finished longer ago than `keep` and still have their details.
SELECT count(*) AS old
FROM enrichment_replays
WHERE state = 'finished'
  AND finished_at < now() - %(keep)s
  AND marks <> '{}'
