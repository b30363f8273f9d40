-- Keep that a group was moved, in each of these partitions, other than by publishing.
INSERT INTO enrichment_group_moves
    (topic, group_id, partition, topic_id, group_offset, published_to, moved_to, skipped, reason)
SELECT
    %(topic)s,
    %(group_id)s,
    moved.partition,
    %(topic_id)s,
    moved.group_offset,
    moved.published_to,
    moved.moved_to,
    moved.skipped,
    %(reason)s
FROM jsonb_to_recordset(%(moves)s)
    AS moved (partition integer, group_offset bigint, published_to bigint, moved_to bigint, skipped bigint)
