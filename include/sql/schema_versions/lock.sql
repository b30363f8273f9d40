-- Upgrades of the schema one after the other: the second waits for the first to commit, then finds nothing to do.
SELECT pg_advisory_xact_lock(hashtext('stacklens-schema'))
