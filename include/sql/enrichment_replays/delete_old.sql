-- Delete a chunk of the windows that were only counted, in a dry run longer ago than `keep`.
DELETE FROM enrichment_replays
WHERE (replay_id, topic, window_start, window_end) IN (
    SELECT
        replay_id,
        topic,
        window_start,
        window_end
    FROM enrichment_replays
    WHERE state = 'counted'
      AND counted_at < now() - %(keep)s
    LIMIT %(row_limit)s
    FOR UPDATE SKIP LOCKED
)
