-- Before a batch is published: which sources it goes without. `outages` is [{"source", "messages"}].
INSERT INTO enrichment_pending (batch_id, source, topic, messages)
SELECT
    %(batch_id)s,
    down.source,
    %(topic)s,
    down.messages
FROM jsonb_to_recordset(%(outages)s) AS down (source text, messages bigint)
ON CONFLICT (batch_id, source) DO NOTHING
