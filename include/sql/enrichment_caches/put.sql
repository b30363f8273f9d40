-- Write down that a cache is declared, where it is kept, and its place in get_cache_statistics(); rows that say so stay as they are.
INSERT INTO enrichment_caches AS known (cache, table_name, key_column, position)
VALUES (%(cache)s, %(table_name)s, %(key_column)s, %(position)s)
ON CONFLICT (cache) DO UPDATE SET
    table_name = EXCLUDED.table_name,
    key_column = EXCLUDED.key_column,
    position = EXCLUDED.position
WHERE (known.table_name, known.key_column, known.position)
    IS DISTINCT FROM (EXCLUDED.table_name, EXCLUDED.key_column, EXCLUDED.position)
