-- Keep what an hour's check found (`breaches` is [{"level", "observed", "threshold"}]). A breach that was known keeps
-- when it was found and told.
INSERT INTO service_level_breaches (starts_at, level, observed, threshold)
SELECT
    %(starts_at)s,
    level,
    observed,
    threshold
FROM jsonb_to_recordset(%(breaches)s) AS found (level text, observed double precision, threshold double precision)
ON CONFLICT (starts_at, level) DO UPDATE SET
    observed = EXCLUDED.observed,
    threshold = EXCLUDED.threshold
