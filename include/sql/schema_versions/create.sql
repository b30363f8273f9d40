-- The numbers of the migrations that were applied, as Alembic makes its table of versions. For enrichment.store.schema.
CREATE TABLE schema_versions (
    version_num varchar(32) NOT NULL,
    CONSTRAINT schema_versions_pkc PRIMARY KEY (version_num)
)
