-- Hold back other rollups until this transaction ends: each hour's run also adds up its day, and must see the others'.
SELECT pg_advisory_xact_lock(hashtext('stacklens-rollup'))
