-- How many batches of the live stream failed by what they held in [starts_at, ends_at): as the audit log tells it, since
-- one that was published later no longer says so itself.
SELECT count(DISTINCT enrichment_audit_log.batch_id)
FROM enrichment_audit_log
INNER JOIN enrichment_jobs USING (batch_id)
WHERE enrichment_audit_log.new_state = 'failed'
  AND enrichment_audit_log.changed_at >= %(starts_at)s
  AND enrichment_audit_log.changed_at < %(ends_at)s
  AND NOT enrichment_jobs.dry_run
  AND coalesce(enrichment_jobs.purpose ->> 'kind', 'live') = 'live'
