-- A batch is visible in the output topics (or, dry, has come as far as it may). The first record of it counts.
UPDATE enrichment_jobs
SET
    state = CASE WHEN dry_run THEN 'dry-run' ELSE 'published' END,
    messages_read = %(messages_read)s,
    messages_enriched = %(messages_enriched)s,
    messages_partial = %(messages_partial)s,
    messages_dead = %(messages_dead)s,
    cache_counts = %(cache_counts)s,
    errors_by_reason = %(errors_by_reason)s,
    durations = durations || %(durations)s,
    geo_database_build = %(geo_database_build)s,
    error = NULL,
    warnings = warnings || %(warnings)s,
    published_at = CASE WHEN dry_run THEN NULL ELSE now() END,
    updated_at = now()
WHERE batch_id = %(batch_id)s
  AND state IN ('claimed', 'drained', 'failed')
