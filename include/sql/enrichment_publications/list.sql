-- Where a batch and its corrections lie, in the order in which they were published.
SELECT
    pass,
    ranges,
    complete
FROM enrichment_publications
WHERE batch_id = %(batch_id)s
ORDER BY pass
