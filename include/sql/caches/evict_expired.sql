-- Evict a chunk of the keys that have passed their hard expiry, oldest first; how many were found and absent.
-- Never waits: what somebody else is writing is left to the next time.
WITH evicted AS (
    DELETE FROM {table}
    WHERE {key} = ANY (ARRAY(
        SELECT {key}
        FROM {table}
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
