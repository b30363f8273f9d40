-- The table of a declared cache, not logged: a crash of the server empties it (docs/decisions/0016). Keys compare as bytes
-- (COLLATE "C"): nobody sorts them by language, and look-ups are faster.
CREATE UNLOGGED TABLE {table} (
    {key} text COLLATE "C" PRIMARY KEY,
    state text NOT NULL,
    reason text,
    {definitions},
    version text NOT NULL DEFAULT '',
    fetched_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    last_used_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT {state} CHECK (state IN ('found', 'absent')),
    CONSTRAINT {absent_has_reason} CHECK (state <> 'absent' OR reason IS NOT NULL),
    CONSTRAINT {expires_after_fetch} CHECK (expires_at >= fetched_at)
);
COMMENT ON TABLE {table} IS 'A cache, made from its declaration: it may be emptied at any time, and is where its columns change.';
COMMENT ON COLUMN {table}.expires_at IS 'Afterwards the row may be served only while the source is down, as stale.';
COMMENT ON COLUMN {table}.last_used_at IS 'When a batch last took it from here, to CACHE_TOUCH_AFTER_HOURS; renewing it is no use.';

CREATE INDEX {expires_at_idx} ON {table} (expires_at);
CREATE INDEX {last_used_at_idx} ON {table} (last_used_at);
COMMENT ON INDEX {expires_at_idx} IS 'evict_expired, count_due, find_hot, get_cache_statistics';
COMMENT ON INDEX {last_used_at_idx} IS 'evict_least_used: what goes first above the ceiling';
