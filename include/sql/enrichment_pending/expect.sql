-- Before a batch is published: which sources it is missing. `outages` is [{"source", "messages", "down"}].
INSERT INTO enrichment_pending (batch_id, source, topic, messages, down)
SELECT
    %(batch_id)s,
    missed.source,
    %(topic)s,
    missed.messages,
    missed.down
FROM jsonb_to_recordset(%(outages)s) AS missed (source text, messages bigint, down boolean)
ON CONFLICT (batch_id, source) DO NOTHING
