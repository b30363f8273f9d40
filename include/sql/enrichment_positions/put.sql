-- Live draining goes on at these offsets: [{"partition", "offset"}].
INSERT INTO enrichment_positions (topic, group_id, partition, next_offset, topic_id)
SELECT
    %(topic)s,
    %(group_id)s,
    placed.partition,
    placed."offset",
    %(topic_id)s
FROM jsonb_to_recordset(%(offsets)s) AS placed (partition integer, "offset" bigint)
ON CONFLICT (topic, group_id, partition) DO UPDATE
SET
    next_offset = excluded.next_offset,
    topic_id = excluded.topic_id,
    updated_at = now()
