-- The encoding of the databases that the server makes unless it is told one. For enrichment.store.schema.
SELECT pg_encoding_to_char(encoding)
FROM pg_database
WHERE datname = 'template1'
