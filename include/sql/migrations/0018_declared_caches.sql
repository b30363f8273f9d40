-- Caches and enrichers are what is declared: which caches there are is in a table, a source is any name, a batch has a build for each
-- enricher. The risks of requests leave the cached contexts, so that a cache holds nothing but what its source said.

SET LOCAL client_min_messages = warning;

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

CREATE TABLE IF NOT EXISTS business_risks (
    request_id       text COLLATE "C" PRIMARY KEY,
    risk_score       double precision,
    risk_level       text,
    fraud_indicators text[],
    scored_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT business_risks_risk_score CHECK (risk_score BETWEEN 0 AND 1)
);
COMMENT ON TABLE business_risks IS 'The risk that was last computed for a request, for views; its row goes when its cached context has gone.';
COMMENT ON COLUMN business_risks.risk_score IS 'In [0, 1], as last computed; not read back, every batch scores anew.';
COMMENT ON COLUMN business_risks.fraud_indicators IS 'Names of the rules that fired when the score was computed.';
COMMENT ON COLUMN business_risks.scored_at IS 'Since when it is so: a score that comes out the same is not written again.';

-- A batch scores a request when it uses its context; the time of the last use is the nearest that is known.
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = 'business_context_cache'::regclass AND attname = 'risk_level' AND NOT attisdropped
    ) THEN
        INSERT INTO business_risks (request_id, risk_score, risk_level, fraud_indicators, scored_at)
        SELECT request_id, risk_score, risk_level, fraud_indicators, last_used_at
        FROM business_context_cache
        WHERE risk_level IS NOT NULL
        ON CONFLICT (request_id) DO NOTHING;
    END IF;
END
$$;

DROP VIEW IF EXISTS v_business_risk_distribution;
ALTER TABLE business_context_cache
    DROP COLUMN IF EXISTS risk_score,
    DROP COLUMN IF EXISTS risk_level,
    DROP COLUMN IF EXISTS fraud_indicators;
COMMENT ON TABLE business_context_cache IS 'Request id to business context, as the query answered.';
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

ALTER TABLE enrichment_pending DROP CONSTRAINT IF EXISTS enrichment_pending_source;

ALTER TABLE enrichment_jobs ADD COLUMN IF NOT EXISTS source_builds jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN enrichment_jobs.source_builds IS 'Enricher to the build of what it was answered from.';

-- Nothing has happened to these batches: the audit has no row of it.
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = 'enrichment_jobs'::regclass AND attname = 'geo_database_build' AND NOT attisdropped
    ) THEN
        ALTER TABLE enrichment_jobs DISABLE TRIGGER enrichment_jobs_audit_trigger;
        UPDATE enrichment_jobs
        SET source_builds = jsonb_build_object('geo', geo_database_build)
        WHERE geo_database_build IS NOT NULL;
        ALTER TABLE enrichment_jobs ENABLE TRIGGER enrichment_jobs_audit_trigger;
        ALTER TABLE enrichment_jobs DROP COLUMN geo_database_build;
    END IF;
END
$$;

COMMENT ON INDEX geo_ip_cache_expires_at_idx IS 'evict_expired, clean_expired_geo_cache, count_due, find_hot, get_cache_statistics';

COMMENT ON FUNCTION clean_expired_geo_cache(interval, integer, text) IS
    'Evict geo entries that expired longer than `grace` ago, oldest first, at most `row_limit`; returns how many. '
    '`only_state`: those found, or those absent, alone. Skips rows that a task is writing. For use by hand: the eviction has its own statement.';

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
