-- When a cached entry was last used, so that what is used least goes first and what is used often is renewed; expired places are
-- evicted by state. Rows that are there count as used now.

SET LOCAL client_min_messages = warning;

ALTER TABLE geo_ip_cache ADD COLUMN IF NOT EXISTS last_used_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE user_profile_cache ADD COLUMN IF NOT EXISTS last_used_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE business_context_cache ADD COLUMN IF NOT EXISTS last_used_at timestamptz NOT NULL DEFAULT now();
COMMENT ON COLUMN geo_ip_cache.last_used_at IS 'When a batch last took it from here, to CACHE_TOUCH_AFTER_HOURS; renewing it is no use.';
COMMENT ON COLUMN user_profile_cache.last_used_at IS 'When a batch last took it from here, to CACHE_TOUCH_AFTER_HOURS; renewing it is no use.';
COMMENT ON COLUMN business_context_cache.last_used_at IS 'When a batch last took it from here, to CACHE_TOUCH_AFTER_HOURS; renewing it is no use.';

CREATE INDEX IF NOT EXISTS geo_ip_cache_last_used_at_idx ON geo_ip_cache (last_used_at);
CREATE INDEX IF NOT EXISTS user_profile_cache_last_used_at_idx ON user_profile_cache (last_used_at);
CREATE INDEX IF NOT EXISTS business_context_cache_last_used_at_idx ON business_context_cache (last_used_at);
COMMENT ON INDEX geo_ip_cache_expires_at_idx IS 'clean_expired_geo_cache, count_due, find_hot, get_cache_statistics';
COMMENT ON INDEX user_profile_cache_expires_at_idx IS 'evict_expired, count_due, find_hot, get_cache_statistics';
COMMENT ON INDEX business_context_cache_expires_at_idx IS 'evict_expired, count_due, find_hot, get_cache_statistics';
COMMENT ON INDEX geo_ip_cache_last_used_at_idx IS 'evict_least_used: what goes first above the ceiling';
COMMENT ON INDEX user_profile_cache_last_used_at_idx IS 'evict_least_used: what goes first above the ceiling';
COMMENT ON INDEX business_context_cache_last_used_at_idx IS 'evict_least_used: what goes first above the ceiling';

DROP VIEW IF EXISTS v_active_geo_cache;
CREATE VIEW v_active_geo_cache AS
SELECT
    ip_address,
    state,
    reason,
    country,
    country_code,
    region,
    city,
    latitude,
    longitude,
    timezone,
    network_type,
    version,
    fetched_at,
    expires_at,
    last_used_at
FROM geo_ip_cache
WHERE expires_at > now();
COMMENT ON VIEW v_active_geo_cache IS 'Entries that may still be served, those of addresses known to be absent included.';

DROP FUNCTION IF EXISTS clean_expired_geo_cache(interval, integer);
CREATE OR REPLACE FUNCTION clean_expired_geo_cache(
    grace interval DEFAULT '0',
    row_limit integer DEFAULT 100000,
    only_state text DEFAULT NULL
) RETURNS bigint
LANGUAGE sql AS $$
    WITH evicted AS (
        DELETE FROM geo_ip_cache
        WHERE ip_address = ANY (ARRAY(
            SELECT ip_address
            FROM geo_ip_cache
            WHERE expires_at <= now() - grace
              AND (only_state IS NULL OR state = only_state)
            ORDER BY expires_at
            LIMIT row_limit
            FOR UPDATE SKIP LOCKED
        ))
        RETURNING 1
    )
    SELECT count(*) FROM evicted
$$;
COMMENT ON FUNCTION clean_expired_geo_cache(interval, integer, text) IS
    'Evict geo entries that expired longer than `grace` ago, oldest first, at most `row_limit`; returns how many. '
    '`only_state`: those found, or those absent, alone. Skips rows that a task is writing. Expired places go no other way.';
