-- How many lanes publish for a group, and whether that is being changed.
SELECT
    lanes,
    changing_to
FROM enrichment_lanes
WHERE group_id = %(group_id)s
