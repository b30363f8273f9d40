-- Published batches that go without a source and are due for another attempt: what stacklens_repair looks for. With a
-- batch id that batch, due or not; with a source only what is missing of it.
SELECT
    pending.batch_id,
    pending.source,
    pending.topic,
    pending.messages,
    pending.down,
    pending.attempts,
    pending.corrected
FROM enrichment_pending AS pending
INNER JOIN enrichment_jobs AS job USING (batch_id)
WHERE pending.state IN ('expected', 'open')
  AND job.state = 'published'
  AND (pending.batch_id = %(batch_id)s OR (%(batch_id)s::text IS NULL AND pending.next_attempt_at <= now()))
  AND (%(source)s::text IS NULL OR pending.source = %(source)s)
ORDER BY job.claimed_at, pending.batch_id, pending.source
LIMIT %(rows)s
