-- The number of lanes is changed: every publisher of the old number is fenced by now.
UPDATE enrichment_lanes
SET
    lanes = changing_to,
    changing_to = NULL,
    changed_by = current_user,
    changed_at = now()
WHERE group_id = %(group_id)s
  AND changing_to = %(lanes)s
