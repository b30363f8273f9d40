-- The first batch of live draining that was published at a time or later and has offsets of this partition: one step of a search
-- for the batch that holds an offset, as batches of a partition are published in the order of their offsets.
SELECT
    batch_id,
    published_at,
    ranges
FROM enrichment_jobs
WHERE state = 'published'
  AND published_at >= %(at)s
  AND topic = %(topic)s
  AND group_id = %(group_id)s
  AND purpose = '{}'
  AND ranges @> jsonb_build_array(jsonb_build_object('partition', %(partition)s::integer))
ORDER BY published_at
LIMIT 1
