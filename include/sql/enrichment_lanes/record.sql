-- Record the number of lanes of a group that has none recorded. Of several sessions that do it at once, one counts.
INSERT INTO enrichment_lanes (group_id, lanes)
VALUES (%(group_id)s, %(lanes)s)
ON CONFLICT (group_id) DO NOTHING
