-- Up to which migration the work is done in a database that says nothing of versions, where not all of them could run: 0018 took
-- away columns that earlier files make views and comments of. For enrichment.store.schema.
SELECT CASE WHEN to_regclass('business_risks') IS NULL THEN '' ELSE '0018' END
