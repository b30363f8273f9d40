-- A page of the ledger, newest first: what the StackLens page lists. State, DAG, run and time are found by indexes; for everything else at
-- most `scanned` batches are looked at, the last of which is returned, too (`is_match` false): a search goes on behind it.
SELECT
    batch_id,
    job.dag_id,
    job.run_id,
    job.lane,
    job.topic,
    job.ranges,
    coalesce(job.purpose ->> 'kind', 'live') AS kind,
    job.state,
    job.dry_run,
    job.attempts,
    job.messages_read,
    job.messages_enriched,
    job.messages_partial,
    job.messages_dead,
    jsonb_array_length(job.warnings) AS warnings,
    left(job.error, 300) AS error,
    job.claimed_at,
    job.published_at,
    page.is_match,
    page.place = %(scanned)s AS is_last_scanned
FROM (
    SELECT
        batch_id,
        place,
        is_match
    FROM (
        SELECT
            batch_id,
            claimed_at,
            row_number() OVER (ORDER BY claimed_at DESC, batch_id DESC) AS place,
            (%(kind)s::text IS NULL OR coalesce(purpose ->> 'kind', 'live') = %(kind)s)
            AND (%(lane)s::integer IS NULL OR lane = %(lane)s)
            AND (%(topic)s::text IS NULL OR topic = %(topic)s)
            AND (
                %(partition)s::integer IS NULL
                OR EXISTS (
                    SELECT 1
                    FROM jsonb_to_recordset(ranges) AS held (partition integer, start bigint, "end" bigint)
                    WHERE held.partition = %(partition)s
                      AND held.start < held."end"
                      AND (%(offset)s::bigint IS NULL OR %(offset)s BETWEEN held.start AND held."end" - 1)
                )
            ) AS is_match
        FROM (
            SELECT
                batch_id,
                lane,
                topic,
                ranges,
                purpose,
                claimed_at
            FROM enrichment_jobs
            WHERE (%(state)s::text IS NULL OR state = %(state)s)
              AND (%(dag_id)s::text IS NULL OR dag_id = %(dag_id)s)
              AND (%(run_id)s::text IS NULL OR run_id = %(run_id)s)
              AND (%(since)s::timestamptz IS NULL OR claimed_at >= %(since)s)
              AND (%(until)s::timestamptz IS NULL OR claimed_at < %(until)s)
              AND (%(before_at)s::timestamptz IS NULL OR (claimed_at, batch_id) < (%(before_at)s, %(before_id)s::text))
            ORDER BY claimed_at DESC, batch_id DESC
            LIMIT %(scanned)s
        ) AS latest
    ) AS looked_at
    WHERE is_match
       OR place = %(scanned)s
    ORDER BY claimed_at DESC, batch_id DESC
    LIMIT %(rows)s
) AS page
INNER JOIN enrichment_jobs AS job USING (batch_id)
ORDER BY page.place
