-- Whoever sets up the group of a window does it alone: the lock ends with the transaction.
SELECT pg_advisory_xact_lock(hashtextextended(%(group_id)s, 0))
