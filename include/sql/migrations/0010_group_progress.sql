-- Where each group goes on, apart from the batches, which retention takes; and who moved it other than by publishing.

ALTER TABLE enrichment_jobs ADD COLUMN IF NOT EXISTS topic_id text;
COMMENT ON COLUMN enrichment_jobs.topic_id IS 'Kafka''s id of the topic when it was claimed: a topic that is made anew has another. Null: not known.';

CREATE TABLE IF NOT EXISTS enrichment_positions (
    topic       text NOT NULL,
    group_id    text NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint NOT NULL,
    topic_id    text,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, group_id, partition),
    CONSTRAINT enrichment_positions_not_negative CHECK (partition >= 0 AND next_offset >= 0)
);
COMMENT ON TABLE enrichment_positions IS 'Where live draining goes on in each partition, by what was published or accepted. A claim compares the group with it.';
COMMENT ON COLUMN enrichment_positions.topic_id IS 'Kafka''s id of the topic that the offset is of. Null: recorded before ids were.';

CREATE TABLE IF NOT EXISTS enrichment_group_moves (
    topic        text NOT NULL,
    group_id     text NOT NULL,
    partition    integer NOT NULL,
    moved_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    topic_id     text,
    group_offset bigint,
    published_to bigint,
    moved_to     bigint NOT NULL,
    skipped      bigint NOT NULL,
    reason       text NOT NULL,
    moved_by     text NOT NULL DEFAULT current_user,
    PRIMARY KEY (topic, group_id, partition, moved_at),
    CONSTRAINT enrichment_group_moves_reason CHECK (reason IN ('accepted', 'lost')),
    CONSTRAINT enrichment_group_moves_not_negative CHECK (skipped >= 0 AND moved_to >= 0)
);
COMMENT ON TABLE enrichment_group_moves IS 'Each time the group was moved other than by publishing, and how many offsets that left out.';
COMMENT ON COLUMN enrichment_group_moves.group_offset IS 'Where the group was; null: it had no offset.';
COMMENT ON COLUMN enrichment_group_moves.published_to IS 'Where live draining would have gone on; null: not known.';
COMMENT ON COLUMN enrichment_group_moves.reason IS 'accepted: python -m enrichment.group accept-offsets. lost: KAFKA_OFFSETS_LOST_POLICY=earliest.';

-- What the ledger knows of the past: the latest batch of a partition answers, since a group only went forward.
INSERT INTO enrichment_positions (topic, group_id, partition, next_offset, updated_at)
SELECT DISTINCT ON (job.topic, job.group_id, reached.partition)
    job.topic,
    job.group_id,
    reached.partition,
    reached."end",
    job.published_at
FROM enrichment_jobs AS job
CROSS JOIN LATERAL jsonb_to_recordset(job.ranges) AS reached (partition integer, "end" bigint)
WHERE job.state = 'published'
  AND job.purpose = '{}'
ORDER BY job.topic, job.group_id, reached.partition, job.published_at DESC
ON CONFLICT (topic, group_id, partition) DO NOTHING;
