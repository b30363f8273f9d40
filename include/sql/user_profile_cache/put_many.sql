-- Keep what the user service said about these users.
-- `rows` is a JSON array of objects. `used_at` is null where that is no use of them: the last one is kept then.
-- In key order, so that two tasks that write the same keys wait for each other instead of deadlocking.
INSERT INTO user_profile_cache (
    user_id,
    state,
    reason,
    version,
    subscription_tier,
    account_age_days,
    company,
    fetched_at,
    expires_at,
    last_used_at
)
SELECT
    given.key,
    given.state,
    given.reason,
    given.version,
    given.subscription_tier,
    given.account_age_days,
    given.company,
    to_timestamp(%(fetched_at)s),
    to_timestamp(given.expires_at),
    to_timestamp(coalesce(%(used_at)s, %(fetched_at)s))
FROM json_to_recordset(%(rows)s::json) AS given (
    key text,
    state text,
    reason text,
    version text,
    expires_at double precision,
    subscription_tier text,
    account_age_days bigint,
    company text
)
ORDER BY given.key COLLATE "C"
ON CONFLICT (user_id) DO UPDATE SET
    state = EXCLUDED.state,
    reason = EXCLUDED.reason,
    version = EXCLUDED.version,
    subscription_tier = EXCLUDED.subscription_tier,
    account_age_days = EXCLUDED.account_age_days,
    company = EXCLUDED.company,
    fetched_at = EXCLUDED.fetched_at,
    expires_at = EXCLUDED.expires_at,
    last_used_at = coalesce(to_timestamp(%(used_at)s), user_profile_cache.last_used_at)
