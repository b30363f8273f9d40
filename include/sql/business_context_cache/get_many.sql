-- What the cache knows about these requests, expired rows within the grace included: the look-up judges them.
-- One row; an array for each of key, state, reason, version, expiry in epoch seconds, whether this use is to be noted, then
-- for the fields of the struct in its order. All are null where nothing is known.
-- Asked once per chunk for all distinct keys. `keys` is a JSON array; an empty `version` means any.
SELECT
    array_agg(request_id) AS request_id,
    array_agg(state) AS state,
    array_agg(reason) AS reason,
    array_agg(version) AS version,
    array_agg(date_part('epoch', expires_at)) AS expires_at,
    array_agg(last_used_at < to_timestamp(%(touched_before)s) AND expires_at > to_timestamp(%(now)s)) AS is_due,
    array_agg(unit) AS unit,
    array_agg(transaction_type) AS transaction_type,
    array_agg(amount) AS amount,
    array_agg(currency) AS currency
FROM business_context_cache
WHERE request_id = ANY (ARRAY(SELECT json_array_elements_text(%(keys)s::json)))
  AND expires_at > to_timestamp(%(served_from)s)
  AND (%(version)s = '' OR version = %(version)s)
