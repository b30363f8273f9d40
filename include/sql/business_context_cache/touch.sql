-- Note that these requests were used; for eviction, which takes first what was not used for longest.
-- Never waits: what somebody else is writing or evicting is left to them. `keys` is a JSON array.
UPDATE business_context_cache
SET last_used_at = to_timestamp(%(used_at)s)
WHERE request_id = ANY (ARRAY(
    SELECT request_id
    FROM business_context_cache
    WHERE request_id = ANY (ARRAY(SELECT json_array_elements_text(%(keys)s::json)))
    FOR NO KEY UPDATE SKIP LOCKED
))
