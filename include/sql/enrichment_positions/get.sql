-- Where live draining of a topic by a group goes on, by partition.
SELECT
    partition,
    next_offset,
    topic_id
FROM enrichment_positions
WHERE topic = %(topic)s
  AND group_id = %(group_id)s
ORDER BY partition
