-- Delete a chunk of the metrics that were recorded longer ago than `keep`.
DELETE FROM enrichment_metrics
WHERE (batch_id, stage) IN (
    SELECT
        batch_id,
        stage
    FROM enrichment_metrics
    WHERE recorded_at < now() - %(keep)s
    ORDER BY recorded_at
    LIMIT %(row_limit)s
)
