-- Hourly and daily rollups with their service levels; what they need in the ledger and of the audit log.

ALTER TABLE enrichment_jobs ADD COLUMN IF NOT EXISTS lag jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN enrichment_jobs.lag IS
    'Partition to the messages behind the end of what its run claimed: what was left when the batch was planned.';
COMMENT ON INDEX enrichment_jobs_published_at_idx IS 'get_cache_statistics; find_batches of a rollup';

CREATE INDEX IF NOT EXISTS enrichment_audit_log_failed_idx ON enrichment_audit_log (changed_at) WHERE new_state = 'failed';
COMMENT ON INDEX enrichment_audit_log_failed_idx IS 'count_failed: batches that failed in an hour';

CREATE TABLE IF NOT EXISTS enrichment_rollups (
    period                text NOT NULL,
    starts_at             timestamptz NOT NULL,
    hours                 integer NOT NULL,
    batches               bigint NOT NULL,
    batches_failed        bigint NOT NULL,
    metric_rows           bigint NOT NULL,
    messages              bigint NOT NULL,
    messages_enriched     bigint NOT NULL,
    messages_partial      bigint NOT NULL,
    messages_dead         bigint NOT NULL,
    value_bytes           bigint NOT NULL,
    messages_per_second   double precision NOT NULL,
    hit_rate              double precision,
    hit_rates             jsonb NOT NULL,
    error_rate            double precision,
    error_rates           jsonb NOT NULL,
    dead_letter_rate      double precision,
    batch_p50_seconds     double precision,
    batch_p95_seconds     double precision,
    batch_p99_seconds     double precision,
    message_p50_seconds   double precision,
    message_p95_seconds   double precision,
    message_p99_seconds   double precision,
    freshness_p50_seconds double precision,
    freshness_p95_seconds double precision,
    freshness_p99_seconds double precision,
    lag_max               bigint,
    lag                   jsonb NOT NULL,
    stages                jsonb NOT NULL,
    sums                  jsonb NOT NULL,
    rolled_up_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (period, starts_at),
    CONSTRAINT enrichment_rollups_period CHECK (
        period IN ('hour', 'day') AND starts_at = date_trunc(period, starts_at, 'UTC')
    ),
    CONSTRAINT enrichment_rollups_balanced CHECK (messages = messages_enriched + messages_partial + messages_dead)
);
COMMENT ON TABLE enrichment_rollups IS
    'What the live stream''s batches came to, by hour and by day (UTC) of their publication. Null: nothing is known.';
COMMENT ON COLUMN enrichment_rollups.hours IS 'How many hours are in it: a day has up to 24.';
COMMENT ON COLUMN enrichment_rollups.hit_rates IS 'Cache to the share of its messages that each tier answered.';
COMMENT ON COLUMN enrichment_rollups.error_rate IS 'Share of the messages published with an error or dead.';
COMMENT ON COLUMN enrichment_rollups.error_rates IS 'Reason to the share of the messages that have it.';
COMMENT ON COLUMN enrichment_rollups.batch_p50_seconds IS 'From claim to publication, each batch counted once.';
COMMENT ON COLUMN enrichment_rollups.message_p50_seconds IS 'From claim to publication, each message counted once.';
COMMENT ON COLUMN enrichment_rollups.freshness_p50_seconds IS 'From message timestamp to publication, by message.';
COMMENT ON COLUMN enrichment_rollups.lag_max IS 'Most messages that a claim left behind, all partitions together.';
COMMENT ON COLUMN enrichment_rollups.sums IS 'What merging needs (enrichment.rollup.Rollup), histograms included.';

CREATE TABLE IF NOT EXISTS service_level_breaches (
    starts_at   timestamptz NOT NULL,
    level       text NOT NULL,
    observed    double precision NOT NULL,
    threshold   double precision NOT NULL,
    found_at    timestamptz NOT NULL DEFAULT now(),
    notified_at timestamptz,
    PRIMARY KEY (starts_at, level),
    CONSTRAINT service_level_breaches_level CHECK (level IN ('hit-rate', 'error-rate', 'freshness', 'lag'))
);
COMMENT ON TABLE service_level_breaches IS 'Which hour of the live stream missed which service level, and by how much.';
COMMENT ON COLUMN service_level_breaches.notified_at IS 'When the notifier was told; null: never (none is set, or a backfill found it).';
