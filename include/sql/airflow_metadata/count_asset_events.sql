-- Asked of Airflow's own database: how many asset events of these DAGs are from before `cutoff`.
SELECT count(*)
FROM asset_event
WHERE source_dag_id = ANY (%(dag_ids)s)
  AND timestamp < %(cutoff)s
