-- The views that read one of these columns of a table: they would have to go first.
SELECT DISTINCT
    ev_class::regclass::text AS view,
    attname::text AS column
FROM pg_depend
INNER JOIN pg_rewrite ON pg_rewrite.oid = objid
INNER JOIN pg_attribute
    ON attrelid = refobjid
   AND attnum = refobjsubid
WHERE classid = 'pg_rewrite'::regclass
  AND refclassid = 'pg_class'::regclass
  AND refobjid = to_regclass(quote_ident(%(table)s))
  AND attname = ANY (%(columns)s)
ORDER BY 1, 2
