-- The topics that the latest replays were sent to, where a run named another than the setting's: they may be looked into, too.
SELECT DISTINCT named.topic
FROM (
    SELECT purpose ->> 'output_topic' AS topic
    FROM enrichment_replays
    ORDER BY counted_at DESC
    LIMIT 1000
) AS named
WHERE named.topic <> ''
ORDER BY named.topic
LIMIT 20
