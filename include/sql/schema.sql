-- The whole schema: the three cache tables, the ledger with its audit, the metrics, and what reads them. Caches that are declared
-- beyond the three get their tables from enrichment.caches.tables.
-- Read this one; databases are brought here by the files of migrations/, which tests compare with it object by object.
-- Whatever changes here needs a migration. Applying this file, also twice, is harmless: it is one transaction.

SET LOCAL client_min_messages = warning;

-- Two sessions that apply it at once would collide in the catalogue: the second waits for the first to commit.
SELECT pg_advisory_xact_lock(hashtext('stacklens-schema'));


-- Caches --------------------------------------------------------------------------------------------------------------
-- Not logged: a crash of the server empties them (docs/decisions/0016). Keys compare as bytes (COLLATE "C"): nobody sorts them by
-- language, and look-ups are faster.

CREATE UNLOGGED TABLE IF NOT EXISTS geo_ip_cache (
    ip_address   text COLLATE "C" PRIMARY KEY,
    state        text NOT NULL,
    reason       text,
    country      text,
    country_code text,
    region       text,
    city         text,
    latitude     double precision,
    longitude    double precision,
    timezone     text,
    network_type text,
    version      text NOT NULL DEFAULT '',
    fetched_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    last_used_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT geo_ip_cache_state CHECK (state IN ('found', 'absent')),
    CONSTRAINT geo_ip_cache_absent_has_reason CHECK (state <> 'absent' OR reason IS NOT NULL),
    CONSTRAINT geo_ip_cache_expires_after_fetch CHECK (expires_at >= fetched_at)
);
COMMENT ON TABLE geo_ip_cache IS 'Address to place. A key that the database does not have is cached too, as absent.';
COMMENT ON COLUMN geo_ip_cache.version IS 'Build of the geo database; rows of another build are not served.';
COMMENT ON COLUMN geo_ip_cache.expires_at IS 'Afterwards the row may be served only while the source is down, as stale.';
COMMENT ON COLUMN geo_ip_cache.last_used_at IS 'When a batch last took it from here, to CACHE_TOUCH_AFTER_HOURS; renewing it is no use.';

CREATE UNLOGGED TABLE IF NOT EXISTS user_profile_cache (
    user_id           text COLLATE "C" PRIMARY KEY,
    state             text NOT NULL,
    reason            text,
    subscription_tier text,
    account_age_days  bigint,
    company           text,
    version           text NOT NULL DEFAULT '',
    fetched_at        timestamptz NOT NULL,
    expires_at        timestamptz NOT NULL,
    last_used_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT user_profile_cache_state CHECK (state IN ('found', 'absent')),
    CONSTRAINT user_profile_cache_absent_has_reason CHECK (state <> 'absent' OR reason IS NOT NULL),
    CONSTRAINT user_profile_cache_expires_after_fetch CHECK (expires_at >= fetched_at)
);
COMMENT ON TABLE user_profile_cache IS 'User id to profile, as the user service answered.';
COMMENT ON COLUMN user_profile_cache.expires_at IS 'Afterwards the row may be served only while the source is down, as stale.';
COMMENT ON COLUMN user_profile_cache.last_used_at IS 'When a batch last took it from here, to CACHE_TOUCH_AFTER_HOURS; renewing it is no use.';

CREATE UNLOGGED TABLE IF NOT EXISTS business_context_cache (
    request_id       text COLLATE "C" PRIMARY KEY,
    state            text NOT NULL,
    reason           text,
    unit             text,
    transaction_type text,
    amount           double precision,
    currency         text,
    version          text NOT NULL DEFAULT '',
    fetched_at       timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    last_used_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT business_context_cache_state CHECK (state IN ('found', 'absent')),
    CONSTRAINT business_context_cache_absent_has_reason CHECK (state <> 'absent' OR reason IS NOT NULL),
    CONSTRAINT business_context_cache_expires_after_fetch CHECK (expires_at >= fetched_at)
);
COMMENT ON TABLE business_context_cache IS 'Request id to business context, as the query answered.';
COMMENT ON COLUMN business_context_cache.expires_at IS 'Afterwards the row may be served only while the source is down, as stale.';
COMMENT ON COLUMN business_context_cache.last_used_at IS 'When a batch last took it from here, to CACHE_TOUCH_AFTER_HOURS; renewing it is no use.';

CREATE INDEX IF NOT EXISTS geo_ip_cache_expires_at_idx ON geo_ip_cache (expires_at);
CREATE INDEX IF NOT EXISTS user_profile_cache_expires_at_idx ON user_profile_cache (expires_at);
CREATE INDEX IF NOT EXISTS business_context_cache_expires_at_idx ON business_context_cache (expires_at);
CREATE INDEX IF NOT EXISTS geo_ip_cache_last_used_at_idx ON geo_ip_cache (last_used_at);
CREATE INDEX IF NOT EXISTS user_profile_cache_last_used_at_idx ON user_profile_cache (last_used_at);
CREATE INDEX IF NOT EXISTS business_context_cache_last_used_at_idx ON business_context_cache (last_used_at);
COMMENT ON INDEX geo_ip_cache_expires_at_idx IS 'evict_expired, clean_expired_geo_cache, count_due, find_hot, get_cache_statistics';
COMMENT ON INDEX user_profile_cache_expires_at_idx IS 'evict_expired, count_due, find_hot, get_cache_statistics';
COMMENT ON INDEX business_context_cache_expires_at_idx IS 'evict_expired, count_due, find_hot, get_cache_statistics';
COMMENT ON INDEX geo_ip_cache_last_used_at_idx IS 'evict_least_used: what goes first above the ceiling';
COMMENT ON INDEX user_profile_cache_last_used_at_idx IS 'evict_least_used: what goes first above the ceiling';
COMMENT ON INDEX business_context_cache_last_used_at_idx IS 'evict_least_used: what goes first above the ceiling';

CREATE TABLE IF NOT EXISTS enrichment_caches (
    cache      text PRIMARY KEY,
    table_name text NOT NULL,
    key_column text NOT NULL,
    position   integer NOT NULL
);
COMMENT ON TABLE enrichment_caches IS 'Which caches are declared, and where they are kept. Written by enrichment.caches.tables, never by hand.';
COMMENT ON COLUMN enrichment_caches.position IS 'Its place in get_cache_statistics().';

INSERT INTO enrichment_caches (cache, table_name, key_column, position)
VALUES
    ('geo', 'geo_ip_cache', 'ip_address', 0),
    ('user', 'user_profile_cache', 'user_id', 1),
    ('business', 'business_context_cache', 'request_id', 2)
ON CONFLICT (cache) DO NOTHING;

CREATE UNLOGGED TABLE IF NOT EXISTS business_risks (
    request_id       text COLLATE "C" PRIMARY KEY,
    risk_score       double precision,
    risk_level       text,
    fraud_indicators text[],
    scored_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT business_risks_risk_score CHECK (risk_score BETWEEN 0 AND 1)
);
COMMENT ON TABLE business_risks IS 'The risk of a request as of when its context was last fetched, for views; its row goes when its cached context has gone.';
COMMENT ON COLUMN business_risks.risk_score IS 'In [0, 1]; not read back, every batch scores anew.';
COMMENT ON COLUMN business_risks.fraud_indicators IS 'Names of the rules that fired when the score was computed.';
COMMENT ON COLUMN business_risks.scored_at IS 'Since when it is so: a score that comes out the same is not written again.';


-- Ledger --------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS enrichment_jobs (
    batch_id             text PRIMARY KEY,
    dag_id               text NOT NULL,
    run_id               text NOT NULL,
    lane                 integer NOT NULL,
    topic                text NOT NULL,
    group_id             text NOT NULL,
    ranges               jsonb NOT NULL,
    max_bytes            bigint,
    dry_run              boolean NOT NULL DEFAULT false,
    set_aside            boolean NOT NULL DEFAULT false,
    purpose              jsonb NOT NULL DEFAULT '{}',
    lag                  jsonb NOT NULL DEFAULT '{}',
    state                text NOT NULL DEFAULT 'claimed',
    attempts             integer NOT NULL DEFAULT 0,
    messages_read        bigint,
    messages_enriched    bigint,
    messages_partial     bigint,
    messages_dead        bigint,
    value_bytes          bigint,
    cache_counts         jsonb NOT NULL DEFAULT '{}',
    errors_by_reason     jsonb NOT NULL DEFAULT '{}',
    durations            jsonb NOT NULL DEFAULT '{}',
    source_builds        jsonb NOT NULL DEFAULT '{}',
    settings_fingerprint text NOT NULL,
    error                text,
    topic_id             text,
    lanes                integer,
    warnings             jsonb NOT NULL DEFAULT '[]',
    suspects             integer [] NOT NULL DEFAULT '{}',
    claimed_at           timestamptz NOT NULL DEFAULT now(),
    drained_at           timestamptz,
    published_at         timestamptz,
    updated_at           timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT enrichment_jobs_state CHECK (state IN ('claimed', 'drained', 'published', 'failed', 'dry-run')),
    CONSTRAINT enrichment_jobs_lane CHECK (lane >= 0),
    CONSTRAINT enrichment_jobs_attempts CHECK (attempts >= 0),
    CONSTRAINT enrichment_jobs_ranges CHECK (jsonb_typeof(ranges) = 'array' AND NOT ranges @? '$[*] ? (@.end < @.start)'),
    CONSTRAINT enrichment_jobs_counts CHECK (
        least(messages_read, messages_enriched, messages_partial, messages_dead, value_bytes) >= 0
    ),
    CONSTRAINT enrichment_jobs_balanced CHECK (
        state NOT IN ('published', 'dry-run')
        OR coalesce(messages_read = messages_enriched + messages_partial + messages_dead, false)
    ),
    CONSTRAINT enrichment_jobs_dry_run CHECK (state <> 'dry-run' OR dry_run),
    CONSTRAINT enrichment_jobs_warnings CHECK (jsonb_typeof(warnings) = 'array'),
    CONSTRAINT enrichment_jobs_published_at CHECK ((state = 'published') = (published_at IS NOT NULL)),
    CONSTRAINT enrichment_jobs_times CHECK (drained_at >= claimed_at AND published_at >= claimed_at)
);
COMMENT ON TABLE enrichment_jobs IS 'The ledger: one row a batch, from claimed to published. Progress itself lives in Kafka.';
COMMENT ON COLUMN enrichment_jobs.ranges IS '[{"partition", "start", "end"}], the offsets [start, end) of each partition.';
COMMENT ON COLUMN enrichment_jobs.set_aside IS 'All its messages became dead letters: it had failed alone before.';
COMMENT ON COLUMN enrichment_jobs.purpose IS 'What it is run for (enrichment.messages.Purpose); empty: live draining.';
COMMENT ON COLUMN enrichment_jobs.lag IS
    'Partition to the messages behind the end of what its run claimed: what was left when the batch was planned.';
COMMENT ON COLUMN enrichment_jobs.attempts IS 'How often the batch was drained.';
COMMENT ON COLUMN enrichment_jobs.cache_counts IS 'Enricher (geo, user, business) to its LookupCounts, by message.';
COMMENT ON COLUMN enrichment_jobs.durations IS 'Stage to seconds.';
COMMENT ON COLUMN enrichment_jobs.source_builds IS 'Enricher to the build of what it was answered from.';
COMMENT ON COLUMN enrichment_jobs.error IS 'Why the last try failed; null once published.';
COMMENT ON COLUMN enrichment_jobs.topic_id IS 'Kafka''s id of the topic when it was claimed: a topic that is made anew has another. Null: not known.';
COMMENT ON COLUMN enrichment_jobs.lanes IS 'The number of lanes that it was claimed with; null: not known.';
COMMENT ON COLUMN enrichment_jobs.warnings IS 'Texts of claim and publish: what somebody should look at, although the batch goes on.';
COMMENT ON COLUMN enrichment_jobs.suspects IS 'Where it failed by what it holds: the partitions that may hold it; empty: any of its.';

CREATE INDEX IF NOT EXISTS enrichment_jobs_run_idx ON enrichment_jobs (dag_id, run_id);
CREATE INDEX IF NOT EXISTS enrichment_jobs_published_at_idx ON enrichment_jobs (published_at) WHERE state = 'published';
CREATE INDEX IF NOT EXISTS enrichment_jobs_state_idx ON enrichment_jobs (state, claimed_at);
CREATE INDEX IF NOT EXISTS enrichment_jobs_claimed_at_idx ON enrichment_jobs (claimed_at, batch_id);
COMMENT ON INDEX enrichment_jobs_run_idx IS 'find_run: what a retried claim has already claimed';
COMMENT ON INDEX enrichment_jobs_published_at_idx IS 'get_cache_statistics; find_batches of a rollup';
COMMENT ON INDEX enrichment_jobs_state_idx IS 'v_enrichment_job_stats asked for one state; find_suspicions';
COMMENT ON INDEX enrichment_jobs_claimed_at_idx IS 'find_page: the ledger newest first';

CREATE TABLE IF NOT EXISTS enrichment_positions (
    topic       text NOT NULL,
    group_id    text NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint NOT NULL,
    topic_id    text,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, group_id, partition),
    CONSTRAINT enrichment_positions_not_negative CHECK (partition >= 0 AND next_offset >= 0)
);
COMMENT ON TABLE enrichment_positions IS 'Where live draining goes on in each partition, by what was published or accepted. A claim compares the group with it.';
COMMENT ON COLUMN enrichment_positions.topic_id IS 'Kafka''s id of the topic that the offset is of. Null: recorded before ids were.';

CREATE TABLE IF NOT EXISTS enrichment_group_moves (
    topic        text NOT NULL,
    group_id     text NOT NULL,
    partition    integer NOT NULL,
    moved_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    topic_id     text,
    group_offset bigint,
    published_to bigint,
    moved_to     bigint NOT NULL,
    skipped      bigint NOT NULL,
    reason       text NOT NULL,
    moved_by     text NOT NULL DEFAULT current_user,
    PRIMARY KEY (topic, group_id, partition, moved_at),
    CONSTRAINT enrichment_group_moves_reason CHECK (reason IN ('accepted', 'lost')),
    CONSTRAINT enrichment_group_moves_not_negative CHECK (skipped >= 0 AND moved_to >= 0)
);
COMMENT ON TABLE enrichment_group_moves IS 'Each time the group was moved other than by publishing, and how many offsets that left out.';
COMMENT ON COLUMN enrichment_group_moves.group_offset IS 'Where the group was; null: it had no offset.';
COMMENT ON COLUMN enrichment_group_moves.published_to IS 'Where live draining would have gone on; null: not known.';
COMMENT ON COLUMN enrichment_group_moves.reason IS 'accepted: python -m enrichment.group accept-offsets. lost: KAFKA_OFFSETS_LOST_POLICY=earliest.';

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

CREATE TABLE IF NOT EXISTS enrichment_metrics (
    batch_id       text NOT NULL REFERENCES enrichment_jobs ON DELETE CASCADE,
    stage          text NOT NULL,
    messages       bigint NOT NULL,
    seconds        double precision NOT NULL,
    peak_rss_bytes bigint,
    counts         jsonb NOT NULL DEFAULT '{}',
    recorded_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, stage),
    CONSTRAINT enrichment_metrics_not_negative CHECK (messages >= 0 AND seconds >= 0 AND peak_rss_bytes >= 0)
);
COMMENT ON TABLE enrichment_metrics IS 'What each stage of each batch did and took; a stage that is run again replaces its row.';

CREATE INDEX IF NOT EXISTS enrichment_metrics_recorded_at_idx ON enrichment_metrics (recorded_at);
COMMENT ON INDEX enrichment_metrics_recorded_at_idx IS 'v_enrichment_performance_trend';

CREATE TABLE IF NOT EXISTS enrichment_audit_log (
    audit_id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id         text NOT NULL,
    action           text NOT NULL,
    old_state        text,
    new_state        text,
    changed_columns  text[] NOT NULL,
    changed_by       text NOT NULL,
    application_name text NOT NULL,
    changed_at       timestamptz NOT NULL,
    CONSTRAINT enrichment_audit_log_action CHECK (action IN ('INSERT', 'UPDATE', 'DELETE'))
);
COMMENT ON TABLE enrichment_audit_log IS 'Who changed what of a job, and when. Written by enrichment_jobs_audit_trigger; outlives the job.';

CREATE INDEX IF NOT EXISTS enrichment_audit_log_batch_idx ON enrichment_audit_log (batch_id, audit_id);
CREATE INDEX IF NOT EXISTS enrichment_audit_log_failed_idx ON enrichment_audit_log (changed_at) WHERE new_state = 'failed';
COMMENT ON INDEX enrichment_audit_log_batch_idx IS 'history: the life of one batch';
COMMENT ON INDEX enrichment_audit_log_failed_idx IS 'count_failed: batches that failed in an hour';

CREATE OR REPLACE FUNCTION audit_enrichment_job() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := CASE WHEN TG_OP = 'INSERT' THEN '{}' ELSE to_jsonb(OLD) END;
    after  jsonb := CASE WHEN TG_OP = 'DELETE' THEN '{}' ELSE to_jsonb(NEW) END;
    changed text[];
BEGIN
    -- updated_at alone is no change: a statement that is repeated leaves no trace.
    SELECT array_agg(name ORDER BY name)
    INTO changed
    FROM jsonb_object_keys(before || after) AS name
    WHERE name <> 'updated_at'
      AND coalesce(before -> name, 'null') <> coalesce(after -> name, 'null');

    IF changed IS NOT NULL THEN
        INSERT INTO enrichment_audit_log
            (batch_id, action, old_state, new_state, changed_columns, changed_by, application_name, changed_at)
        VALUES
            (coalesce(after ->> 'batch_id', before ->> 'batch_id'), TG_OP, before ->> 'state', after ->> 'state',
             changed, current_user, current_setting('application_name'), clock_timestamp());
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION audit_enrichment_job() IS 'Trigger: one row of enrichment_audit_log for each change of a job.';

CREATE OR REPLACE TRIGGER enrichment_jobs_audit_trigger
AFTER INSERT OR UPDATE OR DELETE ON enrichment_jobs
FOR EACH ROW EXECUTE FUNCTION audit_enrichment_job();


-- Rollups -------------------------------------------------------------------------------------------------------------

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
    contents              jsonb NOT NULL DEFAULT '{}',
    rolled_up_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (period, starts_at),
    CONSTRAINT enrichment_rollups_period CHECK (
        period IN ('minute', 'hour', 'day') AND starts_at = date_trunc(period, starts_at, 'UTC')
    ),
    CONSTRAINT enrichment_rollups_balanced CHECK (messages = messages_enriched + messages_partial + messages_dead)
);
COMMENT ON TABLE enrichment_rollups IS
    'What the live stream''s batches came to, by minute, hour and day (UTC) of their publication. Null: nothing is known.';
COMMENT ON COLUMN enrichment_rollups.hours IS 'How many hours are in it: a day has up to 24, a minute none.';
COMMENT ON COLUMN enrichment_rollups.hit_rates IS 'Cache to the share of its messages that each tier answered.';
COMMENT ON COLUMN enrichment_rollups.error_rate IS 'Share of the messages published with an error or dead.';
COMMENT ON COLUMN enrichment_rollups.error_rates IS 'Reason to the share of the messages that have it.';
COMMENT ON COLUMN enrichment_rollups.batch_p50_seconds IS 'From claim to publication, each batch counted once.';
COMMENT ON COLUMN enrichment_rollups.message_p50_seconds IS 'From claim to publication, each message counted once.';
COMMENT ON COLUMN enrichment_rollups.freshness_p50_seconds IS 'From message timestamp to publication, by message.';
COMMENT ON COLUMN enrichment_rollups.lag_max IS 'Most messages that a claim left behind, all partitions together.';
COMMENT ON COLUMN enrichment_rollups.sums IS 'What merging needs (enrichment.rollup.Rollup), histograms included.';
COMMENT ON COLUMN enrichment_rollups.contents IS 'What is counted, such as an output column, to messages by value; … are the rarer values together.';

CREATE TABLE IF NOT EXISTS service_level_breaches (
    starts_at   timestamptz NOT NULL,
    level       text NOT NULL,
    observed    double precision NOT NULL,
    threshold   double precision NOT NULL,
    found_at    timestamptz NOT NULL DEFAULT now(),
    notified_at timestamptz,
    PRIMARY KEY (starts_at, level),
    CONSTRAINT service_level_breaches_level CHECK (level IN ('hit-rate', 'error-rate', 'freshness', 'lag') OR level LIKE 'keyless-%')
);
COMMENT ON TABLE service_level_breaches IS 'Which hour of the live stream missed which service level, and by how much.';
COMMENT ON COLUMN service_level_breaches.notified_at IS 'When the notifier was told; null: never (none is set, or a backfill found it).';


-- Outages -------------------------------------------------------------------------------------------------------------

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
    down            boolean NOT NULL DEFAULT true,
    state           text NOT NULL DEFAULT 'expected',
    attempts        integer NOT NULL DEFAULT 0,
    corrected       bigint NOT NULL DEFAULT 0,
    detail          text,
    since           timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, source),
    CONSTRAINT enrichment_pending_state CHECK (state IN ('expected', 'open', 'repaired', 'given-up', 'lost', 'unrepairable')),
    CONSTRAINT enrichment_pending_not_negative CHECK (messages >= 0 AND attempts >= 0 AND corrected >= 0)
);
COMMENT ON TABLE enrichment_pending IS 'What published batches go without because a source failed, until it is repaired.';
COMMENT ON COLUMN enrichment_pending.topic IS 'Where the batch was published, and where its corrections go.';
COMMENT ON COLUMN enrichment_pending.messages IS 'Published without this source, as counted before the publication.';
COMMENT ON COLUMN enrichment_pending.down IS 'Whether the source was down for the batch; if not, it failed for a few of its keys.';
COMMENT ON COLUMN enrichment_pending.state IS 'expected: about to be published. open: waits. given-up, lost, unrepairable: closed without all corrections.';
COMMENT ON COLUMN enrichment_pending.attempts IS 'Tries at which the source still failed.';

CREATE INDEX IF NOT EXISTS enrichment_pending_due_idx ON enrichment_pending (next_attempt_at)
WHERE state IN ('expected', 'open');
CREATE INDEX IF NOT EXISTS enrichment_pending_unrepaired_idx ON enrichment_pending (since, batch_id, source)
WHERE state <> 'repaired';
COMMENT ON INDEX enrichment_pending_due_idx IS 'enrichment_pending/due: what stacklens_repair looks for every few minutes';
COMMENT ON INDEX enrichment_pending_unrepaired_idx IS 'find_page and count_unrepaired: what waits for its repair, or will not get it';

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


-- What reads and keeps them -------------------------------------------------------------------------------------------
-- Views are dropped first: CREATE OR REPLACE could not take a column away from those of an older schema.

DROP VIEW IF EXISTS v_active_geo_cache;
CREATE VIEW v_active_geo_cache AS
SELECT
    ip_address,
    state,
    reason,
    country,
    country_code,
    region,
    city,
    latitude,
    longitude,
    timezone,
    network_type,
    version,
    fetched_at,
    expires_at,
    last_used_at
FROM geo_ip_cache
WHERE expires_at > now();
COMMENT ON VIEW v_active_geo_cache IS 'Entries that may still be served, those of addresses known to be absent included.';

DROP VIEW IF EXISTS v_user_profile_summary;
CREATE VIEW v_user_profile_summary AS
SELECT
    coalesce(subscription_tier, 'unknown') AS subscription_tier,
    CASE
        WHEN account_age_days < 30 THEN 'under 30 days'
        WHEN account_age_days < 365 THEN '30 to 364 days'
        WHEN account_age_days >= 365 THEN '365 days and more'
        ELSE 'unknown'
    END AS account_age,
    coalesce(company, 'unknown') AS company,
    count(*) AS users,
    count(*) FILTER (WHERE expires_at > now()) AS users_active,
    avg(account_age_days)::double precision AS average_account_age_days
FROM user_profile_cache
WHERE state = 'found'
GROUP BY 1, 2, 3;
COMMENT ON VIEW v_user_profile_summary IS 'Cached users by segment (tier, account age, company); active are those not yet expired.';

DROP VIEW IF EXISTS v_enrichment_job_stats;
CREATE VIEW v_enrichment_job_stats AS
SELECT
    state,
    dag_id,
    count(*) AS batches,
    coalesce(sum(messages_read), 0)::bigint AS messages_read,
    coalesce(sum(messages_enriched), 0)::bigint AS messages_enriched,
    coalesce(sum(messages_partial), 0)::bigint AS messages_partial,
    coalesce(sum(messages_dead), 0)::bigint AS messages_dead,
    coalesce(sum(value_bytes), 0)::bigint AS value_bytes,
    max(messages_read) AS largest_batch,
    avg(messages_read)::double precision AS average_batch,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(EPOCH FROM published_at - claimed_at)::double precision)
        AS median_seconds_to_publish,
    max(extract(EPOCH FROM published_at - claimed_at))::double precision AS longest_seconds_to_publish,
    max(attempts) AS most_attempts,
    min(claimed_at) AS first_claimed_at,
    max(claimed_at) AS last_claimed_at
FROM enrichment_jobs
GROUP BY state, dag_id;
COMMENT ON VIEW v_enrichment_job_stats IS 'Batches by state and DAG: how many, how large, how long from claim to publish.';

DROP VIEW IF EXISTS v_enrichment_performance_trend;
CREATE VIEW v_enrichment_performance_trend AS
SELECT
    date_trunc('day', recorded_at, 'UTC') AS day,
    stage,
    count(*) AS batches,
    sum(messages)::bigint AS messages,
    sum(seconds) AS seconds,
    sum(messages) / nullif(sum(seconds), 0) AS messages_per_second,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) AS p95_seconds,
    max(peak_rss_bytes) AS peak_rss_bytes
FROM enrichment_metrics
WHERE recorded_at > now() - INTERVAL '7 days'
GROUP BY 1, 2;
COMMENT ON VIEW v_enrichment_performance_trend IS 'The last 7 days, by day (UTC) and stage: messages, time, rate and peak memory.';

DROP VIEW IF EXISTS v_business_risk_distribution;
CREATE VIEW v_business_risk_distribution AS
SELECT
    risk.risk_level,
    coalesce(cached.unit, 'unknown') AS unit,
    count(*) AS requests,
    avg(risk.risk_score) AS average_score,
    min(risk.risk_score) AS lowest_score,
    max(risk.risk_score) AS highest_score,
    count(*) FILTER (WHERE cardinality(risk.fraud_indicators) > 0) AS requests_with_indicators
FROM business_context_cache AS cached
INNER JOIN business_risks AS risk USING (request_id)
WHERE risk.risk_level IS NOT NULL
GROUP BY 1, 2;
COMMENT ON VIEW v_business_risk_distribution IS 'Scored requests whose context is cached, by risk level and business unit.';

DROP FUNCTION IF EXISTS clean_expired_geo_cache(interval, integer);
CREATE OR REPLACE FUNCTION clean_expired_geo_cache(
    grace interval DEFAULT '0',
    row_limit integer DEFAULT 100000,
    only_state text DEFAULT NULL
) RETURNS bigint
LANGUAGE sql AS $$
    WITH evicted AS (
        DELETE FROM geo_ip_cache
        WHERE ip_address = ANY (ARRAY(
            SELECT ip_address
            FROM geo_ip_cache
            WHERE expires_at <= now() - grace
              AND (only_state IS NULL OR state = only_state)
            ORDER BY expires_at
            LIMIT row_limit
            FOR UPDATE SKIP LOCKED
        ))
        RETURNING 1
    )
    SELECT count(*) FROM evicted
$$;
COMMENT ON FUNCTION clean_expired_geo_cache(interval, integer, text) IS
    'Evict geo entries that expired longer than `grace` ago, oldest first, at most `row_limit`; returns how many. '
    '`only_state`: those found, or those absent, alone. Skips rows that a task is writing. For use by hand: the eviction has its own statement.';

CREATE OR REPLACE FUNCTION record_enrichment_metric(
    p_batch_id text,
    p_stage text,
    p_messages bigint,
    p_seconds double precision,
    p_peak_rss_bytes bigint DEFAULT NULL,
    p_counts jsonb DEFAULT '{}'
) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO enrichment_metrics (batch_id, stage, messages, seconds, peak_rss_bytes, counts)
    VALUES (p_batch_id, p_stage, p_messages, p_seconds, p_peak_rss_bytes, p_counts)
    ON CONFLICT (batch_id, stage) DO UPDATE SET
        messages = EXCLUDED.messages,
        seconds = EXCLUDED.seconds,
        peak_rss_bytes = EXCLUDED.peak_rss_bytes,
        counts = EXCLUDED.counts,
        recorded_at = EXCLUDED.recorded_at
$$;
COMMENT ON FUNCTION record_enrichment_metric(text, text, bigint, double precision, bigint, jsonb) IS
    'Keep what a stage of a batch did; the last record of a stage counts.';

CREATE OR REPLACE FUNCTION get_cache_statistics(since interval DEFAULT '24 hours')
RETURNS TABLE (
    cache         text,
    entries       bigint,
    expired       bigint,
    absent        bigint,
    size_bytes    bigint,
    messages      bigint,
    memory_hits   bigint,
    postgres_hits bigint,
    misses        bigint,
    stale         bigint,
    hit_rate      double precision
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    known record;
BEGIN
    FOR known IN
        SELECT
            declared.cache,
            format('%I', declared.table_name) AS table_name
        FROM enrichment_caches AS declared
        ORDER BY declared.position, declared.cache
    LOOP
        -- Expired rows are counted on their own: few of many, found through the index on expires_at.
        EXECUTE format(
            $query$
            SELECT
                count(*),
                (SELECT count(*) FROM %1$s WHERE expires_at <= now()),
                count(*) FILTER (WHERE state = 'absent'),
                pg_total_relation_size(%1$L)
            FROM %1$s
            $query$,
            known.table_name
        )
        INTO entries, expired, absent, size_bytes;

        SELECT
            coalesce(sum((counted ->> 'messages')::bigint), 0),
            coalesce(sum((counted ->> 'memory')::bigint), 0),
            coalesce(sum((counted ->> 'postgres')::bigint), 0),
            coalesce(sum((counted ->> 'misses')::bigint), 0),
            coalesce(sum((counted ->> 'stale')::bigint), 0)
        INTO messages, memory_hits, postgres_hits, misses, stale
        FROM enrichment_jobs
        CROSS JOIN LATERAL (SELECT cache_counts -> known.cache) AS counts (counted)
        WHERE state = 'published'
          AND published_at > now() - since;

        cache := known.cache;
        hit_rate := (memory_hits + postgres_hits)::double precision / nullif(messages, 0);
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION get_cache_statistics(interval) IS
    'Size of each cache table now, and its hits by message in the batches published within the last `since`.';
