-- What claim and publish found that somebody should look at, although the batch goes on, stands in the batch's row.

ALTER TABLE enrichment_jobs ADD COLUMN IF NOT EXISTS warnings jsonb NOT NULL DEFAULT '[]';
ALTER TABLE enrichment_jobs DROP CONSTRAINT IF EXISTS enrichment_jobs_warnings;
ALTER TABLE enrichment_jobs ADD CONSTRAINT enrichment_jobs_warnings CHECK (jsonb_typeof(warnings) = 'array');
COMMENT ON COLUMN enrichment_jobs.warnings IS 'Texts of claim and publish: what somebody should look at, although the batch goes on.';
