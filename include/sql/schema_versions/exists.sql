-- Has the database been upgraded before? For enrichment.store.schema.
SELECT to_regclass('schema_versions') IS NOT NULL
