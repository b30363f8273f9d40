-- How many batches that reached over one of these offsets failed by what they hold, and how few offsets the smallest of them had.
-- Only the partitions that may be at fault count. `is_alone`: a batch of nothing else failed, and nobody knows why; setting its
-- message aside may help, which a broker's refusal of what it became does not. `starts` is [{"partition", "start"}].
WITH failed AS (
    SELECT
        held.partition,
        held.start,
        held."end",
        job.suspects = '{}' AS is_unexplained,
        sum(held."end" - held.start) OVER (PARTITION BY job.batch_id) AS span
    FROM enrichment_jobs AS job
    CROSS JOIN LATERAL jsonb_to_recordset(job.ranges) AS held (partition integer, start bigint, "end" bigint)
    WHERE job.topic = %(topic)s
      AND job.group_id = %(group_id)s
      AND job.state = 'failed'
      AND (job.suspects = '{}' OR held.partition = ANY (job.suspects))
)
SELECT
    claimed.partition,
    count(*) AS failures,
    min(failed.span)::bigint AS span,
    bool_or(failed.span <= 1 AND failed.is_unexplained) AS is_alone
FROM jsonb_to_recordset(%(starts)s) AS claimed (partition integer, start bigint)
INNER JOIN failed
    ON failed.partition = claimed.partition
   AND claimed.start >= failed.start
   AND claimed.start < failed."end"
GROUP BY claimed.partition
