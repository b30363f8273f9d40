-- The breaches of hours since a moment, the latest first: what plots are marked with.
SELECT
    starts_at,
    level,
    observed,
    threshold
FROM service_level_breaches
WHERE starts_at >= %(starts_at)s
ORDER BY
    starts_at DESC,
    level
LIMIT %(row_limit)s
