-- Delete a chunk of the minutes that are older than `keep`: their hours are rolled up by themselves.
DELETE FROM enrichment_rollups
WHERE period = 'minute'
  AND starts_at = ANY (ARRAY(
      SELECT starts_at
      FROM enrichment_rollups
      WHERE period = 'minute'
        AND starts_at < now() - %(keep)s
      LIMIT %(row_limit)s
      FOR UPDATE SKIP LOCKED
  ))
