-- Keep what a source said about these keys now (`fetched_at`), or when they were last used: such rows are given as they were read,
-- and leave alone what somebody else has fetched since. One that was evicted meanwhile is there again: it is in use.
-- Each column is given as an array. `used_at` is null where that is no use of them: the last one is kept then.
-- In key order, so that two tasks that write the same keys wait for each other instead of deadlocking.
INSERT INTO {table} AS cached (
    {key},
    state,
    reason,
    version,
    {columns},
    fetched_at,
    expires_at,
    last_used_at
)
SELECT
    given.key,
    given.state,
    given.reason,
    given.version,
    {given_columns},
    to_timestamp(given.fetched),
    to_timestamp(given.expires_at),
    to_timestamp(coalesce(%(used_at)s, given.fetched))
FROM unnest(
    {given}
) AS given ({given_names})
ORDER BY given.key COLLATE "C"
ON CONFLICT ({key}) DO UPDATE SET
    state = EXCLUDED.state,
    reason = EXCLUDED.reason,
    version = EXCLUDED.version,
    {assignments},
    fetched_at = EXCLUDED.fetched_at,
    expires_at = EXCLUDED.expires_at,
    last_used_at = coalesce(to_timestamp(%(used_at)s), cached.last_used_at)
WHERE EXCLUDED.fetched_at = to_timestamp(%(fetched_at)s)
   OR EXCLUDED.fetched_at >= cached.fetched_at
