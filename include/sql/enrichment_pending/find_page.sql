-- A page of what is not repaired, newest first: what the StackLens page lists. State and source may be named.
SELECT
    batch_id,
    source,
    topic,
    messages,
    down,
    state,
    attempts,
    corrected,
    left(detail, 1000) AS detail,
    since,
    next_attempt_at,
    updated_at
FROM enrichment_pending
WHERE state <> 'repaired'
  AND (%(state)s::text IS NULL OR state = %(state)s)
  AND (%(source)s::text IS NULL OR source = %(source)s)
  AND (%(before_at)s::timestamptz IS NULL OR (since, batch_id, source) < (%(before_at)s, %(before_id)s::text, %(before_source)s::text))
ORDER BY since DESC, batch_id DESC, source DESC
LIMIT %(rows)s
