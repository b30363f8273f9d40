-- How many rows of a dependent table belong to no key that the cache keeps: gone already, or past its hard expiry.
SELECT count(*) AS orphans
FROM {dependent} AS dependent
WHERE NOT EXISTS (
    SELECT FROM {table} AS cached
    WHERE cached.{key} = dependent.{key}
      AND cached.expires_at > now() - %(grace)s
)
