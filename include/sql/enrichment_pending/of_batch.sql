-- The sources that one batch was published without, and what became of each.
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
WHERE batch_id = %(batch_id)s
ORDER BY source
