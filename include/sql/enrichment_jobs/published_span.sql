-- Between which times batches were published: where a search for one of them begins.
SELECT
    min(published_at) AS first_at,
    max(published_at) AS last_at
FROM enrichment_jobs
WHERE state = 'published'
