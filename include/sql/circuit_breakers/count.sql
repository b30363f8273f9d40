-- Add to the counters of a dependency's circuit breaker; concurrent calls are all counted.
INSERT INTO circuit_breakers AS known (name, failures, successes)
VALUES (
    %(name)s,
    %(failures)s,
    %(successes)s
)
ON CONFLICT (name) DO UPDATE SET
    failures = known.failures + EXCLUDED.failures,
    successes = known.successes + EXCLUDED.successes,
    updated_at = now()
