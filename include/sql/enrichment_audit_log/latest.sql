-- The latest changes of one batch, newest first: who changed what, and when.
SELECT
    batch_id,
    action,
    old_state,
    new_state,
    changed_columns,
    changed_by,
    application_name,
    changed_at
FROM enrichment_audit_log
WHERE batch_id = %(batch_id)s
ORDER BY audit_id DESC
LIMIT %(rows)s
