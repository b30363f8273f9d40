-- Write a batch into the ledger, unless it is there: ranges that were claimed once do not change.
INSERT INTO enrichment_jobs (
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
    topic_id,
    lanes,
    warnings,
    settings_fingerprint
)
VALUES (
    %(batch_id)s,
    %(dag_id)s,
    %(run_id)s,
    %(lane)s,
    %(topic)s,
    %(group_id)s,
    %(ranges)s,
    %(max_bytes)s,
    %(dry_run)s,
    %(set_aside)s,
    %(purpose)s,
    %(lag)s,
    %(topic_id)s,
    %(lanes)s,
    %(warnings)s,
    %(settings_fingerprint)s
)
ON CONFLICT (batch_id) DO NOTHING
