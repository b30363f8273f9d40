-- Keep what the business tables said about these requests; their risk is written by record_risk.
-- `rows` is a JSON array of objects. `used_at` is null where that is no use of them: the last one is kept then.
-- In key order, so that two tasks that write the same keys wait for each other instead of deadlocking.
INSERT INTO business_context_cache (
    request_id,
    state,
    reason,
    version,
    unit,
    transaction_type,
    amount,
    currency,
    fetched_at,
    expires_at,
    last_used_at
)
SELECT
    given.key,
    given.state,
    given.reason,
    given.version,
    given.unit,
    given.transaction_type,
    given.amount,
    given.currency,
    to_timestamp(%(fetched_at)s),
    to_timestamp(given.expires_at),
    to_timestamp(coalesce(%(used_at)s, %(fetched_at)s))
FROM json_to_recordset(%(rows)s::json) AS given (
    key text,
    state text,
    reason text,
    version text,
    expires_at double precision,
    unit text,
    transaction_type text,
    amount double precision,
    currency text
)
ORDER BY given.key COLLATE "C"
ON CONFLICT (request_id) DO UPDATE SET
    state = EXCLUDED.state,
    reason = EXCLUDED.reason,
    version = EXCLUDED.version,
    unit = EXCLUDED.unit,
    transaction_type = EXCLUDED.transaction_type,
    amount = EXCLUDED.amount,
    currency = EXCLUDED.currency,
    fetched_at = EXCLUDED.fetched_at,
    expires_at = EXCLUDED.expires_at,
    last_used_at = coalesce(to_timestamp(%(used_at)s), business_context_cache.last_used_at)
