-- A batch that failed says which of its partitions hold what failed it, so that the others need not wait.

ALTER TABLE enrichment_jobs ADD COLUMN IF NOT EXISTS suspects integer [] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN enrichment_jobs.suspects IS 'Where it failed by what it holds: the partitions that may hold it; empty: any of its.';
COMMENT ON INDEX enrichment_jobs_state_idx IS 'v_enrichment_job_stats asked for one state; find_suspicions';
