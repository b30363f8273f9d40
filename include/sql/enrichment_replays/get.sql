-- A window of a replay: what a cleared or repeated run goes on with, and what a person asks about it.
SELECT
    state,
    purpose,
    group_id,
    batches,
    marks,
    messages,
    selected,
    lost,
    counts,
    differences
FROM enrichment_replays
WHERE replay_id = %(replay_id)s
  AND topic = %(topic)s
  AND window_start = to_timestamp(%(start)s / 1000.0)
  AND window_end = to_timestamp(%(end)s / 1000.0)
