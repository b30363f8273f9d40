-- The dependencies that are not asked, or only now and then: their circuit breakers are not closed.
SELECT
    name,
    state,
    opened_at
FROM circuit_breakers
WHERE state <> 'closed'
ORDER BY name
