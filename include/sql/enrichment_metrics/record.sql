-- Keep what a stage of a batch did and took; a stage that is run again replaces its row.
SELECT record_enrichment_metric(
    %(batch_id)s,
    %(stage)s,
    %(messages)s,
    %(seconds)s,
    %(peak_rss_bytes)s,
    %(counts)s
)
