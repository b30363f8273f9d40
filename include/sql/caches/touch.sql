-- Note that these keys were used; for eviction, which takes first what was not used for longest.
-- Never waits: what somebody else is writing or evicting is left to them. `keys` is a JSON array.
UPDATE {table}
SET last_used_at = to_timestamp(%(used_at)s)
WHERE {key} = ANY (ARRAY(
    SELECT {key}
    FROM {table}
    WHERE {key} = ANY (ARRAY(SELECT json_array_elements_text(%(keys)s::json)))
    FOR NO KEY UPDATE SKIP LOCKED
))
