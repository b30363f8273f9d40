-- What has passed its hard expiry (`grace` after it expired) and is to be evicted: users by state, and the bytes of their rows.
SELECT
    count(*) FILTER (WHERE state = 'found') AS found,
    count(*) FILTER (WHERE state = 'absent') AS absent,
    coalesce(sum(pg_column_size(user_profile_cache.*)), 0)::bigint AS bytes
FROM user_profile_cache
WHERE expires_at <= now() - %(grace)s
