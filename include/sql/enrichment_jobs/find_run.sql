-- The batches that a run of a DAG has claimed, in the order of their lanes: what a retried claim goes on with.
SELECT
    batch_id,
    dag_id,
    run_id,
    lane,
    topic,
    group_id,
    ranges,
    max_bytes,
    dry_run,
    set_aside,
    purpose,
    lag,
    state,
    attempts,
    messages_read,
    messages_enriched,
    messages_partial,
    messages_dead,
    value_bytes,
    cache_counts,
    errors_by_reason,
    durations,
    source_builds,
    settings_fingerprint,
    error,
    topic_id,
    lanes,
    warnings,
    claimed_at,
    drained_at,
    published_at,
    updated_at
FROM enrichment_jobs
WHERE dag_id = %(dag_id)s
  AND run_id = %(run_id)s
ORDER BY lane, batch_id
