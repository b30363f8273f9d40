-- How many breaches are of hours longer ago than `keep`.
SELECT count(*) AS old
FROM service_level_breaches
WHERE starts_at < now() - %(keep)s
