-- The columns of a table, their types, and whether they are its key as those of a cache are; none: there is no such table.
SELECT
    attname::text AS name,
    format_type(atttypid, atttypmod) AS type,
    attcollation = '"C"'::regcollation AND EXISTS (
        SELECT FROM pg_index
        WHERE indrelid = attrelid
          AND indisprimary
          AND indkey::text = attnum::text
    ) AS is_key
FROM pg_attribute
WHERE attrelid = to_regclass(quote_ident(%(table)s))
  AND attnum > 0
  AND NOT attisdropped
