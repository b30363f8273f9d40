-- Keep what the geo database said about these addresses.
-- `rows` is a JSON array of objects. `used_at` is null where that is no use of them: the last one is kept then.
-- In key order, so that two tasks that write the same keys wait for each other instead of deadlocking.
INSERT INTO geo_ip_cache (
    ip_address,
    state,
    reason,
    version,
    country,
    country_code,
    region,
    city,
    latitude,
    longitude,
    timezone,
    network_type,
    fetched_at,
    expires_at,
    last_used_at
)
SELECT
    given.key,
    given.state,
    given.reason,
    given.version,
    given.country,
    given.country_code,
    given.region,
    given.city,
    given.latitude,
    given.longitude,
    given.timezone,
    given.network_type,
    to_timestamp(%(fetched_at)s),
    to_timestamp(given.expires_at),
    to_timestamp(coalesce(%(used_at)s, %(fetched_at)s))
FROM json_to_recordset(%(rows)s::json) AS given (
    key text,
    state text,
    reason text,
    version text,
    expires_at double precision,
    country text,
    country_code text,
    region text,
    city text,
    latitude double precision,
    longitude double precision,
    timezone text,
    network_type text
)
ORDER BY given.key COLLATE "C"
ON CONFLICT (ip_address) DO UPDATE SET
    state = EXCLUDED.state,
    reason = EXCLUDED.reason,
    version = EXCLUDED.version,
    country = EXCLUDED.country,
    country_code = EXCLUDED.country_code,
    region = EXCLUDED.region,
    city = EXCLUDED.city,
    latitude = EXCLUDED.latitude,
    longitude = EXCLUDED.longitude,
    timezone = EXCLUDED.timezone,
    network_type = EXCLUDED.network_type,
    fetched_at = EXCLUDED.fetched_at,
    expires_at = EXCLUDED.expires_at,
    last_used_at = coalesce(to_timestamp(%(used_at)s), geo_ip_cache.last_used_at)
