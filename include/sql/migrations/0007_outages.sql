-- Outages: shared circuit breakers, what is pending, and where it was published.

CREATE TABLE IF NOT EXISTS circuit_breakers (
    name       text PRIMARY KEY,
    state      text NOT NULL DEFAULT 'closed',
    failures   integer NOT NULL DEFAULT 0,
    successes  integer NOT NULL DEFAULT 0,
    opened_at  timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT circuit_breakers_state CHECK (state IN ('closed', 'open', 'half-open')),
    CONSTRAINT circuit_breakers_not_negative CHECK (failures >= 0 AND successes >= 0)
);
COMMENT ON TABLE circuit_breakers IS 'What all tasks know of a dependency: one row each. Delete a row to close its breaker by hand.';

CREATE TABLE IF NOT EXISTS enrichment_pending (
    batch_id        text NOT NULL REFERENCES enrichment_jobs ON DELETE CASCADE,
    source          text NOT NULL,
    topic           text NOT NULL,
    messages        bigint NOT NULL,
    state           text NOT NULL DEFAULT 'expected',
    attempts        integer NOT NULL DEFAULT 0,
    corrected       bigint NOT NULL DEFAULT 0,
    detail          text,
    since           timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, source),
    CONSTRAINT enrichment_pending_source CHECK (source IN ('geo-ip', 'user-profile', 'business-context')),
    CONSTRAINT enrichment_pending_state CHECK (state IN ('expected', 'open', 'repaired', 'given-up', 'lost')),
    CONSTRAINT enrichment_pending_not_negative CHECK (messages >= 0 AND attempts >= 0 AND corrected >= 0)
);
COMMENT ON TABLE enrichment_pending IS 'What published batches go without because a source was down, until it is repaired.';
COMMENT ON COLUMN enrichment_pending.topic IS 'Where the batch was published, and where its corrections go.';
COMMENT ON COLUMN enrichment_pending.messages IS 'Published without this source, as counted before the publication.';
COMMENT ON COLUMN enrichment_pending.state IS 'expected: about to be published. open: waits. given-up, lost: closed without all corrections.';
COMMENT ON COLUMN enrichment_pending.attempts IS 'Tries at which the source still failed.';

CREATE INDEX IF NOT EXISTS enrichment_pending_due_idx ON enrichment_pending (next_attempt_at)
WHERE state IN ('expected', 'open');
COMMENT ON INDEX enrichment_pending_due_idx IS 'enrichment_pending/due: what stacklens_repair looks for every few minutes';

CREATE TABLE IF NOT EXISTS enrichment_publications (
    batch_id   text NOT NULL REFERENCES enrichment_jobs ON DELETE CASCADE,
    pass       integer NOT NULL,
    ranges     jsonb NOT NULL,
    complete   boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, pass),
    CONSTRAINT enrichment_publications_pass CHECK (pass >= 0)
);
COMMENT ON TABLE enrichment_publications IS 'Between which offsets of its output topic a batch with something pending lies, and each pass of its corrections.';
COMMENT ON COLUMN enrichment_publications.pass IS '0: the batch itself. 1 and up: its repairs, in order.';
COMMENT ON COLUMN enrichment_publications.ranges IS '[{"partition", "start", "end"}] with messages of other batches in between; ends count once complete.';
