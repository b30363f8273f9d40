-- A repair whose corrections are larger than their topic takes ends in a state of its own.

ALTER TABLE enrichment_pending DROP CONSTRAINT IF EXISTS enrichment_pending_state;
ALTER TABLE enrichment_pending ADD CONSTRAINT enrichment_pending_state
CHECK (state IN ('expected', 'open', 'repaired', 'given-up', 'lost', 'unrepairable'));
COMMENT ON COLUMN enrichment_pending.state IS
    'expected: about to be published. open: waits. given-up, lost, unrepairable: closed without all corrections.';
