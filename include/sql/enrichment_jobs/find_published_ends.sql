-- Up to which offset a group has published each of these partitions, as far as the ledger goes: what a claim compares with the
-- group's own offsets. The latest batch of a partition answers, since a group only goes forward.
SELECT
    asked.partition,
    latest."end"
FROM unnest(%(partitions)s::integer []) AS asked (partition)
CROSS JOIN LATERAL (
    SELECT reached."end"
    FROM enrichment_jobs AS job
    CROSS JOIN LATERAL jsonb_to_recordset(job.ranges) AS reached (partition integer, "end" bigint)
    WHERE job.state = 'published'
      AND job.topic = %(topic)s
      AND job.group_id = %(group_id)s
      AND reached.partition = asked.partition
    ORDER BY job.published_at DESC
    LIMIT 1
) AS latest
