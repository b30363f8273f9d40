-- Delete a chunk of the batches that were claimed longer ago than `keep` and that nothing may still need: published ones without
-- a pending repair, dry runs, and unpublished ones whose group has published past each of their ends. Batches of a window that is
-- still to be finished stay: once Kafka has forgotten its group, only they know what of it is published. Metrics go along.
WITH passed AS MATERIALIZED (
    SELECT
        published.topic,
        published.group_id,
        reached.partition,
        max(reached."end") AS "end"
    FROM enrichment_jobs AS published
    CROSS JOIN LATERAL jsonb_to_recordset(published.ranges) AS reached (partition integer, "end" bigint)
    WHERE published.state = 'published'
    GROUP BY published.topic, published.group_id, reached.partition
)
DELETE FROM enrichment_jobs
WHERE batch_id = ANY (ARRAY(
    SELECT job.batch_id
    FROM enrichment_jobs AS job
    WHERE job.claimed_at < now() - %(keep)s
      AND job.state IN ('claimed', 'drained', 'failed', 'published', 'dry-run')
      AND (
          job.state = 'published' AND NOT EXISTS (
              SELECT FROM enrichment_pending AS pending
              WHERE pending.batch_id = job.batch_id
                AND pending.state IN ('expected', 'open')
          )
          OR job.dry_run
          OR job.state <> 'published' AND NOT EXISTS (
              SELECT FROM jsonb_to_recordset(job.ranges) AS claimed (partition integer, "end" bigint)
              WHERE NOT EXISTS (
                  SELECT FROM passed
                  WHERE passed.topic = job.topic
                    AND passed.group_id = job.group_id
                    AND passed.partition = claimed.partition
                    AND passed."end" >= claimed."end"
              )
          )
      )
      AND NOT EXISTS (
          SELECT FROM enrichment_replays AS replay
          WHERE replay.state = 'claimed'
            AND replay.group_id = job.group_id
      )
    LIMIT %(row_limit)s
    FOR UPDATE SKIP LOCKED
))
