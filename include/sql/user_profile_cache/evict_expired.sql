-- Evict a chunk of the users that have passed their hard expiry, oldest first; how many were found and absent.
-- Never waits: what somebody else is writing is left to the next time.
WITH evicted AS (
    DELETE FROM user_profile_cache
    WHERE user_id = ANY (ARRAY(
        SELECT user_id
        FROM user_profile_cache
        WHERE expires_at <= now() - %(grace)s
        ORDER BY expires_at
        LIMIT %(row_limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING state
)
SELECT
    count(*) FILTER (WHERE state = 'found') AS found,
    count(*) FILTER (WHERE state = 'absent') AS absent
FROM evicted
