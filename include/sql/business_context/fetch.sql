-- The business context of requests, for the enricher `business`. Adapt this file to your own tables.
--
-- In:  %(request_ids)s, an array of text: the distinct request ids of a chunk that no cache knew.
-- Out: one row per known request, with the columns request_id, unit, transaction_type, amount, currency.
--      Order and further columns do not matter; unknown requests are left out; any column but request_id may be null.
--      Where a request has several rows, the first counts: say which with ORDER BY.
--
-- amount may be any number type, in units of currency. An id that is not text in your tables is cast on both sides
-- (`id::text AS request_id` and `id = ANY(%(request_ids)s::bigint[])`). The query should find its rows by an index. Write a
-- percent sign as two (`LIKE 'a%%'`). The risk rules (risk_rules.toml) read these columns.
-- A changed query is a new source version: contexts that the old one cached are fetched again.
SELECT
    request_id,
    unit,
    transaction_type,
    amount,
    currency
FROM demo_requests
WHERE request_id = ANY(%(request_ids)s)
