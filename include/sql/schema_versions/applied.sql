-- The numbers of the migrations that were applied. For enrichment.store.schema.
SELECT version_num
FROM schema_versions
ORDER BY version_num
