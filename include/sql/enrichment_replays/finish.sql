-- All batches of a window are published: what they came to, and how that differs from before. The first record counts.
UPDATE enrichment_replays
SET
    state = 'finished',
    counts = %(counts)s,
    differences = %(differences)s,
    finished_at = now()
WHERE replay_id = %(replay_id)s
  AND topic = %(topic)s
  AND window_start = to_timestamp(%(start)s / 1000.0)
  AND window_end = to_timestamp(%(end)s / 1000.0)
  AND state = 'claimed'
