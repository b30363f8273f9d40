-- Delete a chunk of the changes that were noted longer ago than `keep`. Only the oldest `row_limit` are looked at: they were
-- noted in the order of their ids.
DELETE FROM enrichment_audit_log
WHERE audit_id = ANY (ARRAY(
    SELECT audit_id
    FROM enrichment_audit_log
    ORDER BY audit_id
    LIMIT %(row_limit)s
))
  AND changed_at < now() - %(keep)s
