-- How a group was moved in a topic other than by publishing, oldest first.
SELECT
    partition,
    group_offset,
    published_to,
    moved_to,
    skipped,
    reason,
    moved_by,
    moved_at
FROM enrichment_group_moves
WHERE topic = %(topic)s
  AND group_id = %(group_id)s
ORDER BY moved_at, partition
