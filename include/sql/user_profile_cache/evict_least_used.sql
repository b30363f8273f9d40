-- Evict a chunk of the users that were not used for longest, expired or not: the table is above its ceiling.
-- Never waits: what somebody else is writing is in use.
WITH evicted AS (
    DELETE FROM user_profile_cache
    WHERE user_id = ANY (ARRAY(
        SELECT user_id
        FROM user_profile_cache
        ORDER BY last_used_at
        LIMIT %(row_limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING pg_column_size(user_profile_cache.*) AS bytes
)
SELECT
    count(*) AS rows,
    coalesce(sum(bytes), 0)::bigint AS bytes
FROM evicted
