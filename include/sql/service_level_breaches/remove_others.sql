-- Forget breaches of an hour that a later check did not find: late batches or another threshold have mended it.
DELETE FROM service_level_breaches
WHERE starts_at = %(starts_at)s
  AND level <> ALL (%(levels)s)
