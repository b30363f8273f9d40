-- Each cache table's size now, and how its look-ups of the last day were answered: what eviction goes by and reports.
SELECT
    cache,
    entries,
    expired,
    absent,
    size_bytes,
    messages,
    memory_hits,
    postgres_hits,
    misses,
    stale,
    hit_rate
FROM get_cache_statistics()
