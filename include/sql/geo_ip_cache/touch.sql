-- Note that these addresses were used; for eviction, which takes first what was not used for longest.
-- Never waits: what somebody else is writing or evicting is left to them. `keys` is a JSON array.
UPDATE geo_ip_cache
SET last_used_at = to_timestamp(%(used_at)s)
WHERE ip_address = ANY (ARRAY(
    SELECT ip_address
    FROM geo_ip_cache
    WHERE ip_address = ANY (ARRAY(SELECT json_array_elements_text(%(keys)s::json)))
    FOR NO KEY UPDATE SKIP LOCKED
))
