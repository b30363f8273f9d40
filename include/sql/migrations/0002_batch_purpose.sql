-- What a batch is run for, beside live draining; batches that are there were all of live draining.

ALTER TABLE enrichment_jobs ADD COLUMN IF NOT EXISTS purpose jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN enrichment_jobs.purpose IS 'What it is run for (enrichment.messages.Purpose); empty: live draining.';
