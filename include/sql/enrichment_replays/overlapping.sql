-- The claimed windows of a replay that share time with this one and are not it: a message would be replayed twice.
SELECT
    window_start,
    window_end
FROM enrichment_replays
WHERE replay_id = %(replay_id)s
  AND topic = %(topic)s
  AND state <> 'counted'
  AND window_start < to_timestamp(%(end)s / 1000.0)
  AND window_end > to_timestamp(%(start)s / 1000.0)
  AND (window_start, window_end) <> (to_timestamp(%(start)s / 1000.0), to_timestamp(%(end)s / 1000.0))
ORDER BY window_start
