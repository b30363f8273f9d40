-- Where a group has published past one of these starts, as far as the ledger goes: what a claim of live draining asks. `starts` is
-- [{"partition", "start"}]. The latest batch of each partition answers, since a group only goes forward.
SELECT
    claimed.partition,
    claimed.start,
    latest.batch_id,
    latest."end"
FROM jsonb_to_recordset(%(starts)s) AS claimed (partition integer, start bigint)
CROSS JOIN LATERAL (
    SELECT
        job.batch_id,
        reached."end"
    FROM enrichment_jobs AS job
    CROSS JOIN LATERAL jsonb_to_recordset(job.ranges) AS reached (partition integer, "end" bigint)
    WHERE job.state = 'published'
      AND job.topic = %(topic)s
      AND job.group_id = %(group_id)s
      AND reached.partition = claimed.partition
    ORDER BY job.published_at DESC
    LIMIT 1
) AS latest
WHERE latest."end" > claimed.start
ORDER BY claimed.partition
