-- A batch is visible in the output topics (or, dry, has come as far as it may). The first record of it counts. Live draining
-- goes on behind it: never before where it is, and not in another topic of the same name. `recorded` is whether this was the
-- first record.
WITH recorded AS (
    UPDATE enrichment_jobs
    SET
        state = CASE WHEN dry_run THEN 'dry-run' ELSE 'published' END,
        messages_read = %(messages_read)s,
        messages_enriched = %(messages_enriched)s,
        messages_partial = %(messages_partial)s,
        messages_dead = %(messages_dead)s,
        cache_counts = %(cache_counts)s,
        errors_by_reason = %(errors_by_reason)s,
        durations = durations || %(durations)s,
        source_builds = %(source_builds)s,
        error = NULL,
        warnings = warnings || %(warnings)s,
        published_at = CASE WHEN dry_run THEN NULL ELSE now() END,
        updated_at = now()
    WHERE batch_id = %(batch_id)s
      AND state IN ('claimed', 'drained', 'failed')
    RETURNING topic, group_id, ranges, topic_id, state, purpose
),

moved AS (
    INSERT INTO enrichment_positions AS known (topic, group_id, partition, next_offset, topic_id)
    SELECT
        recorded.topic,
        recorded.group_id,
        reached.partition,
        reached."end",
        recorded.topic_id
    FROM recorded
    CROSS JOIN LATERAL jsonb_to_recordset(recorded.ranges) AS reached (partition integer, "end" bigint)
    WHERE recorded.state = 'published'
      AND recorded.purpose = '{}'
    ON CONFLICT (topic, group_id, partition) DO UPDATE
    SET
        next_offset = excluded.next_offset,
        topic_id = coalesce(excluded.topic_id, known.topic_id),
        updated_at = now()
    WHERE known.next_offset < excluded.next_offset
      AND coalesce(known.topic_id = excluded.topic_id, true)
)

SELECT count(*) > 0 AS recorded
FROM recorded
