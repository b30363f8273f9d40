-- Delete a chunk of the hours that are older than `keep` and that their day does without: it has all 24 in it, or nobody will
-- add hours to it any more, since it is older than days are kept. Days are cut at midnight, so that none is taken apart.
DELETE FROM enrichment_rollups
WHERE period = 'hour'
  AND starts_at = ANY (ARRAY(
      SELECT hour.starts_at
      FROM enrichment_rollups AS hour
      INNER JOIN enrichment_rollups AS day
          ON day.period = 'day'
          AND day.starts_at = date_trunc('day', hour.starts_at, 'UTC')
      WHERE hour.period = 'hour'
        AND hour.starts_at < date_trunc('day', now() - %(keep)s, 'UTC')
        AND (day.hours = 24 OR hour.starts_at < date_trunc('day', now() - %(daily_rollups)s, 'UTC'))
      LIMIT %(row_limit)s
      FOR UPDATE OF hour SKIP LOCKED
  ))
