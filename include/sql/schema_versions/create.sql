-- An empty table of versions, which enrichment.store.schema makes anew.
DROP TABLE schema_versions
