-- What the cache knows about these addresses, expired rows within the grace included: the look-up judges them.
-- Columns: key, state, reason, version, expiry in epoch seconds, whether this use is to be noted, then the fields of the
-- struct in its order.
-- Asked once per chunk for all distinct keys. `keys` is a JSON array; an empty `version` means any.
SELECT
    ip_address,
    state,
    reason,
    version,
    date_part('epoch', expires_at),
    last_used_at < to_timestamp(%(touched_before)s) AND expires_at > to_timestamp(%(now)s),
    country,
    country_code,
    region,
    city,
    latitude,
    longitude,
    timezone,
    network_type
FROM geo_ip_cache
WHERE ip_address = ANY (ARRAY(SELECT json_array_elements_text(%(keys)s::json)))
  AND expires_at > to_timestamp(%(served_from)s)
  AND (%(version)s = '' OR version = %(version)s)
