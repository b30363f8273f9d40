-- What waits for `stacklens_repair`, by source: batches, messages in them that still lack it, and since when.
SELECT
    source,
    count(*) AS batches,
    sum(messages - corrected)::bigint AS messages,
    min(since) AS since
FROM enrichment_pending
WHERE state = 'open'
GROUP BY source
ORDER BY source
