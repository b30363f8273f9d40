-- Give the table of a cache the columns that its declaration has now. What it held was of other columns: it starts empty.
TRUNCATE {table};
ALTER TABLE {table} {changes};
