-- From now on nothing is published for the group, until the change is finished.
INSERT INTO enrichment_lanes (group_id, lanes, changing_to)
VALUES (%(group_id)s, %(lanes)s, %(lanes)s)
ON CONFLICT (group_id) DO UPDATE
SET
    changing_to = excluded.changing_to,
    changed_by = current_user,
    changed_at = now()
