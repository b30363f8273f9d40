-- Batches by state and DAG, the latest DAG first: what the rollup reports of the ledger.
SELECT
    state,
    dag_id,
    batches,
    messages_read,
    messages_partial,
    messages_dead,
    median_seconds_to_publish,
    longest_seconds_to_publish,
    last_claimed_at
FROM v_enrichment_job_stats
ORDER BY last_claimed_at DESC, state
