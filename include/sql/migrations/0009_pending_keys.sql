-- What a batch goes without because its source failed for a few keys only is pending, too, and told from an outage.

ALTER TABLE enrichment_pending ADD COLUMN IF NOT EXISTS down boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN enrichment_pending.down IS 'Whether the source was down for the batch; if not, it failed for a few of its keys.';
COMMENT ON TABLE enrichment_pending IS 'What published batches go without because a source failed, until it is repaired.';
