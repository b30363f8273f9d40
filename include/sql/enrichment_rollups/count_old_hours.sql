-- How many hours are older than `keep` and are in a day that does without them.
SELECT count(*) AS old
FROM enrichment_rollups AS hour
INNER JOIN enrichment_rollups AS day
    ON day.period = 'day'
    AND day.starts_at = date_trunc('day', hour.starts_at, 'UTC')
WHERE hour.period = 'hour'
  AND hour.starts_at < date_trunc('day', now() - %(keep)s, 'UTC')
  AND (day.hours = 24 OR hour.starts_at < date_trunc('day', now() - %(daily_rollups)s, 'UTC'))
