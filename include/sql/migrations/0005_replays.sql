-- Replays of past windows: one row a window.

CREATE TABLE IF NOT EXISTS enrichment_replays (
    replay_id    text NOT NULL,
    topic        text NOT NULL,
    window_start timestamptz NOT NULL,
    window_end   timestamptz NOT NULL,
    state        text NOT NULL,
    purpose      jsonb NOT NULL,
    group_id     text NOT NULL,
    batches      jsonb NOT NULL DEFAULT '[]',
    marks        jsonb NOT NULL DEFAULT '{}',
    messages     bigint NOT NULL,
    selected     bigint NOT NULL,
    lost         text,
    counts       jsonb NOT NULL DEFAULT '{}',
    differences  jsonb NOT NULL DEFAULT '{}',
    dag_id       text NOT NULL,
    run_id       text NOT NULL,
    counted_at   timestamptz NOT NULL DEFAULT now(),
    claimed_at   timestamptz,
    finished_at  timestamptz,
    PRIMARY KEY (replay_id, topic, window_start, window_end),
    CONSTRAINT enrichment_replays_state CHECK (state IN ('counted', 'claimed', 'finished')),
    CONSTRAINT enrichment_replays_window CHECK (window_end > window_start),
    CONSTRAINT enrichment_replays_counts CHECK (messages >= selected AND selected >= 0),
    CONSTRAINT enrichment_replays_times CHECK (
        (state = 'counted') = (claimed_at IS NULL) AND (state = 'finished') = (finished_at IS NOT NULL)
    )
);
COMMENT ON TABLE enrichment_replays IS 'One row a replayed window: what it took, its batches, and how its output differs from before.';
COMMENT ON COLUMN enrichment_replays.state IS 'counted (a dry run), claimed (its bounds are fixed), finished (all published and compared).';
COMMENT ON COLUMN enrichment_replays.batches IS 'The batches in order (enrichment.messages.Batch); fixed when claimed.';
COMMENT ON COLUMN enrichment_replays.marks IS 'Topic to what it held of the window when claimed: before the end is what was published before.';
COMMENT ON COLUMN enrichment_replays.messages IS 'Messages of the window; `selected` are those that pass the filters.';
COMMENT ON COLUMN enrichment_replays.lost IS 'What of the window had left the log, where that was allowed.';
COMMENT ON COLUMN enrichment_replays.counts IS 'What was published: enriched, partial, dead.';
COMMENT ON COLUMN enrichment_replays.differences IS 'enrichment.replay.Differences: same, changed, fields, ...';
