-- Keep the risk that was computed for these requests with their cached context; rows that would not change are left
-- alone, requests that are not cached are skipped. `rows` is a JSON array of objects.
-- Rows are locked in key order, so that two tasks that score the same requests cannot deadlock.
WITH scored AS (
    SELECT
        request_id,
        risk_score,
        risk_level,
        fraud_indicators
    FROM json_to_recordset(%(rows)s::json) AS given (
        request_id text,
        risk_score double precision,
        risk_level text,
        fraud_indicators text[]
    )
),
changed AS (
    SELECT
        cached.request_id,
        scored.risk_score,
        scored.risk_level,
        scored.fraud_indicators
    FROM business_context_cache AS cached
    JOIN scored USING (request_id)
    WHERE (cached.risk_score, cached.risk_level, cached.fraud_indicators)
        IS DISTINCT FROM (scored.risk_score, scored.risk_level, scored.fraud_indicators)
    ORDER BY cached.request_id
    FOR UPDATE OF cached
)
UPDATE business_context_cache AS cached
SET
    risk_score = changed.risk_score,
    risk_level = changed.risk_level,
    fraud_indicators = changed.fraud_indicators
FROM changed
WHERE cached.request_id = changed.request_id
