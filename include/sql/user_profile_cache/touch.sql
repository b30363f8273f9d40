-- Note that these users were used; for eviction, which takes first what was not used for longest.
-- Never waits: what somebody else is writing or evicting is left to them. `keys` is a JSON array.
UPDATE user_profile_cache
SET last_used_at = to_timestamp(%(used_at)s)
WHERE user_id = ANY (ARRAY(
    SELECT user_id
    FROM user_profile_cache
    WHERE user_id = ANY (ARRAY(SELECT json_array_elements_text(%(keys)s::json)))
    FOR NO KEY UPDATE SKIP LOCKED
))
