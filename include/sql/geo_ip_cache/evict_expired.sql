-- Evict a chunk of what has passed its hard expiry: places first, then addresses known to be absent; how many of each.
SELECT
    found,
    clean_expired_geo_cache(%(grace)s, (%(row_limit)s - found)::integer, 'absent') AS absent
FROM clean_expired_geo_cache(%(grace)s, %(row_limit)s, 'found') AS found
