-- Rollups of minutes, for plots of the last hours, and of what messages hold.

ALTER TABLE enrichment_rollups DROP CONSTRAINT IF EXISTS enrichment_rollups_period;
ALTER TABLE enrichment_rollups ADD CONSTRAINT enrichment_rollups_period CHECK (
    period IN ('minute', 'hour', 'day') AND starts_at = date_trunc(period, starts_at, 'UTC')
);
COMMENT ON TABLE enrichment_rollups IS
    'What the live stream''s batches came to, by minute, hour and day (UTC) of their publication. Null: nothing is known.';
COMMENT ON COLUMN enrichment_rollups.hours IS 'How many hours are in it: a day has up to 24, a minute none.';

ALTER TABLE enrichment_rollups ADD COLUMN IF NOT EXISTS contents jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN enrichment_rollups.contents IS 'What is counted, such as an output column, to messages by value; … are the rarer values together.';
