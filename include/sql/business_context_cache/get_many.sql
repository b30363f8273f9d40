-- What the cache knows about these requests, expired rows within the grace included: the look-up judges them.
-- Columns: key, state, reason, version, expiry in epoch seconds, whether this use is to be noted, then the fields of the
-- struct in its order.
-- Asked once per chunk for all distinct keys. `keys` is a JSON array; an empty `version` means any.
SELECT
    request_id,
    state,
    reason,
    version,
    date_part('epoch', expires_at),
    last_used_at < to_timestamp(%(touched_before)s) AND expires_at > to_timestamp(%(now)s),
    unit,
    transaction_type,
    amount,
    currency
FROM business_context_cache
WHERE request_id = ANY (ARRAY(SELECT json_array_elements_text(%(keys)s::json)))
  AND expires_at > to_timestamp(%(served_from)s)
  AND (%(version)s = '' OR version = %(version)s)
