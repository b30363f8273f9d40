-- An attempt at a batch's pending source is over: what it corrected, and in which state that leaves it. One that ended
-- before is left alone.
UPDATE enrichment_pending
SET
    state = %(state)s,
    attempts = attempts + %(failed)s,
    corrected = corrected + %(corrected)s,
    detail = %(detail)s,
    next_attempt_at = now() + make_interval(secs => least(%(longest_pause)s, %(pause)s * power(2, least(attempts, 30)))),
    updated_at = now()
WHERE batch_id = %(batch_id)s
  AND source = %(source)s
  AND state IN ('expected', 'open')
