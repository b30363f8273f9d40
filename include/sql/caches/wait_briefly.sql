-- Opens a chunk of an eviction: rather give the chunk up than wait. SKIP LOCKED passes over rows that somebody writes, but for a
-- moment: where a writer commits just then and the next one has the row already, PostgreSQL waits for that one. A tenth
-- of deadlock_timeout's default, so that two that wait for each other never get as far as that.
SET LOCAL lock_timeout = '100ms'
