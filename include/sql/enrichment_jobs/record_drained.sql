-- A batch has been read: its final ranges (a drain may end early, at the batch's bytes) and what was in them.
-- A batch that has been published stays as it is.
UPDATE enrichment_jobs
SET
    state = 'drained',
    attempts = attempts + 1,
    ranges = %(ranges)s,
    messages_read = %(messages_read)s,
    value_bytes = %(value_bytes)s,
    drained_at = now(),
    updated_at = now()
WHERE batch_id = %(batch_id)s
  AND state IN ('claimed', 'drained', 'failed')
