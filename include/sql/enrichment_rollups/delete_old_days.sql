-- Delete a chunk of the days that are older than `keep`, once their hours are gone: those would make the day anew.
DELETE FROM enrichment_rollups
WHERE period = 'day'
  AND starts_at = ANY (ARRAY(
      SELECT day.starts_at
      FROM enrichment_rollups AS day
      WHERE day.period = 'day'
        AND day.starts_at < date_trunc('day', now() - %(keep)s, 'UTC')
        AND NOT EXISTS (
            SELECT FROM enrichment_rollups AS hour
            WHERE hour.period = 'hour'
              AND hour.starts_at >= day.starts_at
              AND hour.starts_at < day.starts_at + INTERVAL '24 hours'
        )
      LIMIT %(row_limit)s
      FOR UPDATE SKIP LOCKED
  ))
