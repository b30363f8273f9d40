-- What is known of a dependency's circuit breaker: every task asks before it asks the dependency.
SELECT
    state,
    failures,
    successes,
    opened_at
FROM circuit_breakers
WHERE name = %(name)s
