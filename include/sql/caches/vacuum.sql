-- Make the space of evicted rows usable again and refresh the planner's figures. Gives way where another vacuum or a change of the
-- schema is at work, and leaves the file as long as it is: cutting it would lock readers out for a moment.
VACUUM (ANALYZE, SKIP_LOCKED, TRUNCATE false) {table}
