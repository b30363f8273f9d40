-- The breaches of an hour that no notifier has been told of.
SELECT
    level,
    observed,
    threshold
FROM service_level_breaches
WHERE starts_at = %(starts_at)s
  AND notified_at IS NULL
ORDER BY level
