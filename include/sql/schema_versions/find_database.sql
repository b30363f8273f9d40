-- Is there a database of this name? For enrichment.store.schema.
SELECT datname
FROM pg_database
WHERE datname = %(name)s
