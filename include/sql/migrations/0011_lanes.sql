-- The number of lanes is the group's, the same for all workers: recorded by the first claim, compared by claim and publish.

ALTER TABLE enrichment_jobs ADD COLUMN IF NOT EXISTS lanes integer;
COMMENT ON COLUMN enrichment_jobs.lanes IS 'The number of lanes that it was claimed with; null: not known.';

CREATE TABLE IF NOT EXISTS enrichment_lanes (
    group_id    text PRIMARY KEY,
    lanes       integer NOT NULL,
    changing_to integer,
    changed_by  text NOT NULL DEFAULT current_user,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT enrichment_lanes_positive CHECK (lanes > 0 AND changing_to > 0)
);
COMMENT ON TABLE enrichment_lanes IS 'How many lanes publish for each group. Changed by python -m enrichment.group set-lanes, never by hand.';
COMMENT ON COLUMN enrichment_lanes.changing_to IS 'A change that was begun: nothing is published until it is finished. Null: none.';
