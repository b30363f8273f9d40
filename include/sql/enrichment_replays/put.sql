-- Write down a window that was counted, or claimed with its batches. What was claimed once does not change.
INSERT INTO enrichment_replays (
    replay_id,
    topic,
    window_start,
    window_end,
    state,
    purpose,
    group_id,
    batches,
    marks,
    messages,
    selected,
    lost,
    dag_id,
    run_id,
    claimed_at
)
VALUES (
    %(replay_id)s,
    %(topic)s,
    to_timestamp(%(start)s / 1000.0),
    to_timestamp(%(end)s / 1000.0),
    %(state)s,
    %(purpose)s,
    %(group_id)s,
    %(batches)s,
    %(marks)s,
    %(messages)s,
    %(selected)s,
    %(lost)s,
    %(dag_id)s,
    %(run_id)s,
    CASE WHEN %(state)s <> 'counted' THEN now() END
)
ON CONFLICT (replay_id, topic, window_start, window_end) DO UPDATE
SET
    state = excluded.state,
    purpose = excluded.purpose,
    group_id = excluded.group_id,
    batches = excluded.batches,
    marks = excluded.marks,
    messages = excluded.messages,
    selected = excluded.selected,
    lost = excluded.lost,
    dag_id = excluded.dag_id,
    run_id = excluded.run_id,
    counted_at = now(),
    claimed_at = excluded.claimed_at
WHERE enrichment_replays.state = 'counted'
