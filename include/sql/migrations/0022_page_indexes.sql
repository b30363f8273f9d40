-- The ledger newest first, and what is not repaired: the StackLens page lists both, a page at a time.

CREATE INDEX IF NOT EXISTS enrichment_jobs_claimed_at_idx ON enrichment_jobs (claimed_at, batch_id);
COMMENT ON INDEX enrichment_jobs_claimed_at_idx IS 'find_page: the ledger newest first';

CREATE INDEX IF NOT EXISTS enrichment_pending_unrepaired_idx ON enrichment_pending (since, batch_id, source)
WHERE state <> 'repaired';
COMMENT ON INDEX enrichment_pending_unrepaired_idx IS 'find_page and count_unrepaired: what waits for its repair, or will not get it';
