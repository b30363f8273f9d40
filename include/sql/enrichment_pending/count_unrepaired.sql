-- What is not repaired, by source and state, of the latest `counted` rows.
SELECT
    source,
    state,
    count(*) AS batches,
    sum(messages - corrected)::bigint AS messages,
    min(since) AS since
FROM (
    SELECT
        source,
        state,
        messages,
        corrected,
        since
    FROM enrichment_pending
    WHERE state <> 'repaired'
    ORDER BY since DESC
    LIMIT %(counted)s
) AS latest
GROUP BY source, state
ORDER BY source, state
