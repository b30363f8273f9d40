-- Keep the risk that was computed for these requests; rows that would not change are left alone, not even locked.
-- Each column is given as an array; that of indicators holds the text form of an array of text. Requests are distinct.
-- In key order, so that two tasks that score the same requests wait for each other instead of deadlocking.
INSERT INTO business_risks AS known (
    request_id,
    risk_score,
    risk_level,
    fraud_indicators
)
SELECT
    given.request_id,
    given.risk_score,
    given.risk_level,
    given.fraud_indicators::text[]
FROM unnest(
    %(request_ids)s::text[],
    %(scores)s::double precision[],
    %(levels)s::text[],
    %(indicators)s::text[]
) AS given (request_id, risk_score, risk_level, fraud_indicators)
LEFT JOIN business_risks AS recorded ON recorded.request_id = given.request_id
WHERE recorded.request_id IS NULL
   OR (recorded.risk_score, recorded.risk_level, recorded.fraud_indicators)
    IS DISTINCT FROM (given.risk_score, given.risk_level, given.fraud_indicators::text[])
ORDER BY given.request_id COLLATE "C"
ON CONFLICT (request_id) DO UPDATE SET
    risk_score = EXCLUDED.risk_score,
    risk_level = EXCLUDED.risk_level,
    fraud_indicators = EXCLUDED.fraud_indicators,
    scored_at = EXCLUDED.scored_at
WHERE (known.risk_score, known.risk_level, known.fraud_indicators)
    IS DISTINCT FROM (EXCLUDED.risk_score, EXCLUDED.risk_level, EXCLUDED.fraud_indicators)
