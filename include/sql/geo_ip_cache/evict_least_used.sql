-- Evict a chunk of the addresses that were not used for longest, expired or not: the table is above its ceiling.
-- Never waits: what somebody else is writing is in use.
WITH evicted AS (
    DELETE FROM geo_ip_cache
    WHERE ip_address = ANY (ARRAY(
        SELECT ip_address
        FROM geo_ip_cache
        ORDER BY last_used_at
        LIMIT %(row_limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING pg_column_size(geo_ip_cache.*) AS bytes
)
SELECT
    count(*) AS rows,
    coalesce(sum(bytes), 0)::bigint AS bytes
FROM evicted
