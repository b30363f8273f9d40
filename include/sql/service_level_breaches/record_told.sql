-- The notifier has been told of an hour's breaches.
UPDATE service_level_breaches
SET notified_at = now()
WHERE starts_at = %(starts_at)s
  AND level = ANY (%(levels)s)
