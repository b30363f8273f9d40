-- Set what is not null of a dependency's circuit breaker. A row that says so already is not written again.
INSERT INTO circuit_breakers AS known (name, state, failures, successes, opened_at)
VALUES (
    %(name)s,
    coalesce(%(state)s, 'closed'),
    coalesce(%(failures)s, 0),
    coalesce(%(successes)s, 0),
    %(opened_at)s::timestamptz
)
ON CONFLICT (name) DO UPDATE SET
    state = coalesce(%(state)s, known.state),
    failures = coalesce(%(failures)s, known.failures),
    successes = coalesce(%(successes)s, known.successes),
    opened_at = coalesce(%(opened_at)s::timestamptz, known.opened_at),
    updated_at = now()
WHERE known.state <> coalesce(%(state)s, known.state)
   OR known.failures <> coalesce(%(failures)s, known.failures)
   OR known.successes <> coalesce(%(successes)s, known.successes)
   OR known.opened_at IS DISTINCT FROM coalesce(%(opened_at)s::timestamptz, known.opened_at)
