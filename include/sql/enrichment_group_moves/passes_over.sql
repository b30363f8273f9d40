-- Whether somebody moved the group past the start of a batch since it was claimed, when it was not published by then.
SELECT EXISTS (
    SELECT 1
    FROM enrichment_jobs AS job
    CROSS JOIN LATERAL jsonb_to_recordset(job.ranges) AS taken (partition integer, "start" bigint)
    INNER JOIN enrichment_group_moves AS move
        ON move.topic = job.topic
       AND move.group_id = job.group_id
       AND move.partition = taken.partition
    WHERE job.batch_id = %(batch_id)s
      AND job.purpose = '{}'
      AND move.moved_at > job.claimed_at
      AND coalesce(move.group_offset, taken."start") <= taken."start"
      AND move.moved_to > taken."start"
)
