-- What a cache knows about these keys, expired rows within the grace included: the look-up judges them.
-- One row; an array for each of key, state, reason, version, expiry and fetch in epoch seconds, whether this use is to be noted,
-- then for the fields of the struct in its order. All are null where nothing is known.
-- Asked once per chunk for all distinct keys. An empty `version` means any.
SELECT
    array_agg({key}) AS {key},
    array_agg(state) AS state,
    array_agg(reason) AS reason,
    array_agg(version) AS version,
    array_agg(date_part('epoch', expires_at)) AS expires_at,
    array_agg(date_part('epoch', fetched_at)) AS fetched_at,
    array_agg(last_used_at < to_timestamp(%(touched_before)s) AND expires_at > to_timestamp(%(now)s)) AS is_due,
    {aggregates}
FROM {table}
WHERE {key} = ANY (ARRAY(SELECT unnest(%(keys)s::text[])))
  AND expires_at > to_timestamp(%(served_from)s)
  AND (%(version)s = '' OR version = %(version)s)
