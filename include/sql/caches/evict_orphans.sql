-- Evict a chunk of a dependent table's rows whose key is gone from the cache; how many, and the last key.
-- From `first` on, in key order: the chunks together go over both tables once. Never waits: what somebody else is writing is
-- left to the next time.
WITH evicted AS (
    DELETE FROM {dependent}
    WHERE {key} = ANY (ARRAY(
        SELECT dependent.{key}
        FROM {dependent} AS dependent
        WHERE dependent.{key} >= %(first)s
          AND NOT EXISTS (
              SELECT FROM {table} AS cached
              WHERE cached.{key} = dependent.{key}
          )
        ORDER BY dependent.{key}
        LIMIT %(row_limit)s
        FOR UPDATE OF dependent SKIP LOCKED
    ))
    RETURNING {key} AS key
)
SELECT
    count(*) AS orphans,
    max(key) AS last
FROM evicted
