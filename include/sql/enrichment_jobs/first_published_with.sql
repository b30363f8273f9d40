-- The first batch of live draining that was published from one time on, before another, and has offsets of this partition: one step of
-- a search for the batch that holds an offset, as batches of a partition are published in the order of their offsets. Steps that find
-- none, since the partition has none there, read half as far each.
SELECT
    batch_id,
    published_at,
    ranges
FROM enrichment_jobs
WHERE state = 'published'
  AND published_at >= %(at)s
  AND published_at < %(before)s
  AND topic = %(topic)s
  AND group_id = %(group_id)s
  AND purpose = '{}'
  AND ranges @> jsonb_build_array(jsonb_build_object('partition', %(partition)s::integer))
ORDER BY published_at
LIMIT 1
