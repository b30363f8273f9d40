-- The business context of requests, for the enricher `business`. Adapt this file to your own tables.
--
-- In:  %(request_ids)s, an array of text: the distinct request ids of a chunk that no cache knew.
-- Out: one row per known request, with the columns request_id, unit, transaction_type, amount, currency.
--      Order and further columns do not matter; unknown requests are left out; any column but request_id may be null.
--      Where a request has several rows, the first counts: say which with ORDER BY.
--
-- amount may be any number type, in units of currency; other columns are taken as the text that PostgreSQL writes. Write a percent
-- sign as two (`LIKE 'a%%'`), in comments, too. The risk rules (risk_rules.toml) read these columns. The query may only read, and
-- must take no longer than BUSINESS_QUERY_TIMEOUT_SEC. It should find its rows by an index.
--
-- An id that is a number in your tables is returned as text (`id::text AS request_id`) and found by
--     WHERE id = ANY (ARRAY(
--         SELECT CASE WHEN key ~ '^(0|[1-9][0-9]{0,17})$' THEN key::bigint END
--         FROM unnest(%(request_ids)s::text[]) AS key
--     ))
--
-- which uses its index and passes over what is no such number. A plain `%(request_ids)s::bigint[]` fails for all of a chunk where
-- one id is a word: then the others are asked for without it, which takes longer.
--
-- A query that is wrong fails its task at once. A row or key for which it fails (a cast, a division by zero) has no context.
-- A changed query is a new source version: contexts that the old one cached are fetched again.
SELECT
    request_id,
    unit,
    transaction_type,
    amount,
    currency
FROM demo_requests
WHERE request_id = ANY(%(request_ids)s)
