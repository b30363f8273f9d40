-- Evict a chunk of the keys that were not used for longest, expired or not: the table is above its ceiling.
-- Never waits: what somebody else is writing is in use.
WITH evicted AS (
    DELETE FROM {table} AS cached
    WHERE {key} = ANY (ARRAY(
        SELECT {key}
        FROM {table}
        ORDER BY last_used_at
        LIMIT %(row_limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING pg_column_size(cached.*) AS bytes
)
SELECT
    count(*) AS rows,
    coalesce(sum(bytes), 0)::bigint AS bytes
FROM evicted
