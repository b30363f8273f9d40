-- An hour whose messages hardly have a key of a source misses a level of its own: `keyless-` and the source's name.

ALTER TABLE service_level_breaches DROP CONSTRAINT IF EXISTS service_level_breaches_level;
ALTER TABLE service_level_breaches ADD CONSTRAINT service_level_breaches_level
CHECK (level IN ('hit-rate', 'error-rate', 'freshness', 'lag') OR level LIKE 'keyless-%');
