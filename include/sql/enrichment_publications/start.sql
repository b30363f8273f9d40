-- Before a pass over a batch is published: from which offsets on it will lie. The first try's are kept: a later one
-- does not know which of them got through.
INSERT INTO enrichment_publications (batch_id, pass, ranges)
VALUES (
    %(batch_id)s,
    %(pass)s,
    %(ranges)s
)
ON CONFLICT (batch_id, pass) DO NOTHING
