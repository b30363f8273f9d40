-- As vacuum does for the cache: for a table that depends on it.
VACUUM (ANALYZE, SKIP_LOCKED, TRUNCATE false) {dependent}
