-- Asked of Airflow's own database: which runs there are of the DAGs whose id begins with `prefix`; their task logs stay.
SELECT
    dag_id,
    run_id,
    start_date
FROM dag_run
WHERE starts_with(dag_id, %(prefix)s)
