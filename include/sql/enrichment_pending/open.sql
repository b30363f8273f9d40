-- A batch has been published: its missing sources may be repaired from now on.
UPDATE enrichment_pending
SET
    state = 'open',
    updated_at = now()
WHERE batch_id = %(batch_id)s
  AND state = 'expected'
