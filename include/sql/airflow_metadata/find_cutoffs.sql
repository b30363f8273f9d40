-- Asked of Airflow's own database: for each DAG whose id begins with `prefix`, before when its runs may go, and how many runs
-- that are. Never later than `keep` ago, and never later than anything of a run that has not ended or of the DAG's last run.
WITH runs AS (
    SELECT
        dag_id,
        run_id,
        start_date,
        state IN ('success', 'failed') AS ended,
        row_number() OVER (PARTITION BY dag_id ORDER BY coalesce(start_date, queued_at) DESC NULLS LAST, id DESC) = 1 AS is_last
    FROM dag_run
    WHERE starts_with(dag_id, %(prefix)s)
),
kept AS (
    SELECT
        runs.dag_id,
        least(
            runs.start_date,
            (
                SELECT min(start_date) FROM task_instance
                WHERE task_instance.dag_id = runs.dag_id AND task_instance.run_id = runs.run_id
            ),
            (
                SELECT min(start_date) FROM task_instance_history
                WHERE task_instance_history.dag_id = runs.dag_id AND task_instance_history.run_id = runs.run_id
            )
        ) AS began_at
    FROM runs
    WHERE is_last OR NOT ended
),
cutoffs AS (
    SELECT
        dag_id,
        least(now() - %(keep)s, min(began_at)) AS cutoff
    FROM kept
    GROUP BY dag_id
)
SELECT
    cutoffs.dag_id,
    cutoffs.cutoff,
    count(runs.run_id) AS runs
FROM cutoffs
LEFT JOIN runs
    ON runs.dag_id = cutoffs.dag_id
    AND runs.start_date < cutoffs.cutoff
GROUP BY cutoffs.dag_id, cutoffs.cutoff
ORDER BY cutoffs.dag_id
