-- A task of a batch has failed for good, and why. A batch that has been published stays as it is.
UPDATE enrichment_jobs
SET
    state = 'failed',
    error = %(error)s,
    suspects = %(suspects)s,
    updated_at = now()
WHERE batch_id = %(batch_id)s
  AND state IN ('claimed', 'drained', 'failed')
