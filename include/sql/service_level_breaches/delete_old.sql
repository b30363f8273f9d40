-- Delete a chunk of the breaches of hours longer ago than `keep`.
DELETE FROM service_level_breaches
WHERE (starts_at, level) IN (
    SELECT
        starts_at,
        level
    FROM service_level_breaches
    WHERE starts_at < now() - %(keep)s
    LIMIT %(row_limit)s
)
