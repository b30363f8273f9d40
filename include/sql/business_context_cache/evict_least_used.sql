-- Evict a chunk of the requests that were not used for longest, expired or not: the table is above its ceiling.
-- Never waits: what somebody else is writing is in use.
WITH evicted AS (
    DELETE FROM business_context_cache
    WHERE request_id = ANY (ARRAY(
        SELECT request_id
        FROM business_context_cache
        ORDER BY last_used_at
        LIMIT %(row_limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING pg_column_size(business_context_cache.*) AS bytes
)
SELECT
    count(*) AS rows,
    coalesce(sum(bytes), 0)::bigint AS bytes
FROM evicted
