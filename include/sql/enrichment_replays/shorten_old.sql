-- Take from a chunk of the windows that were finished longer ago than `keep` what is large: their batches, bounds and
-- differences. That they were published stays, for ever: it is what keeps the replay of that id from publishing them again.
UPDATE enrichment_replays
SET
    batches = '[]',
    marks = '{}',
    differences = '{}'
WHERE (replay_id, topic, window_start, window_end) IN (
    SELECT
        replay_id,
        topic,
        window_start,
        window_end
    FROM enrichment_replays
    WHERE state = 'finished'
      AND finished_at < now() - %(keep)s
      AND marks <> '{}'
    LIMIT %(row_limit)s
    FOR UPDATE SKIP LOCKED
)
