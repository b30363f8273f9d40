-- How many changes were noted longer ago than `keep`: a dry run's question, for which the whole log is read.
SELECT count(*) AS old
FROM enrichment_audit_log
WHERE changed_at < now() - %(keep)s
