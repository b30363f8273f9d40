-- Why a try of a batch failed that is not at fault itself. A batch that has been published stays as it is.
UPDATE enrichment_jobs
SET
    error = %(error)s,
    updated_at = now()
WHERE batch_id = %(batch_id)s
  AND state IN ('claimed', 'drained', 'failed')
