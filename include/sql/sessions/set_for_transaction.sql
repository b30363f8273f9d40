-- Opens every transaction of enrichment.databases: how long its statements may wait, and what our statements and psycopg rely on,
-- whatever role, database, environment or the last user of a pooled connection set. All of it ends with the transaction, so it
-- holds behind PgBouncer in transaction mode, too. Planning is for all rows of a cursor: we fetch all of them.
SELECT
    set_config('statement_timeout', %(statement_timeout)s, true),
    set_config('lock_timeout', %(lock_timeout)s, true),
    set_config('DateStyle', 'ISO, YMD', true),
    set_config('IntervalStyle', 'postgres', true),
    set_config('TimeZone', 'UTC', true),
    set_config('bytea_output', 'hex', true),
    set_config('extra_float_digits', '1', true),
    set_config('standard_conforming_strings', 'on', true),
    set_config('array_nulls', 'on', true),
    set_config('cursor_tuple_fraction', '1', true)
