-- What has passed its hard expiry (`grace` after it expired) and is to be evicted: requests by state, and the bytes of their rows.
SELECT
    count(*) FILTER (WHERE state = 'found') AS found,
    count(*) FILTER (WHERE state = 'absent') AS absent,
    coalesce(sum(pg_column_size(business_context_cache.*)), 0)::bigint AS bytes
FROM business_context_cache
WHERE expires_at <= now() - %(grace)s
