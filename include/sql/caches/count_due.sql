-- What has passed its hard expiry (`grace` after it expired) and is to be evicted: keys by state, and the bytes of their rows.
SELECT
    count(*) FILTER (WHERE state = 'found') AS found,
    count(*) FILTER (WHERE state = 'absent') AS absent,
    coalesce(sum(pg_column_size(cached.*)), 0)::bigint AS bytes
FROM {table} AS cached
WHERE expires_at <= now() - %(grace)s
