-- Cached requests by risk level and unit, the largest groups first: the eviction's report.
SELECT
    risk_level,
    unit,
    requests,
    average_score,
    requests_with_indicators
FROM v_business_risk_distribution
ORDER BY requests DESC, risk_level, unit
LIMIT %(row_limit)s
