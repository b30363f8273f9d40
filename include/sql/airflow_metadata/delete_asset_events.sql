-- Asked of Airflow's own database: delete a chunk of the asset events of these DAGs from before `cutoff`. `airflow db clean` of
-- Airflow 3.3.2 cannot: told of DAGs it looks for a column that the table has not (apache/airflow#69030).
DELETE FROM asset_event
WHERE id = ANY (ARRAY(
    SELECT id
    FROM asset_event
    WHERE source_dag_id = ANY (%(dag_ids)s)
      AND timestamp < %(cutoff)s
    ORDER BY id
    LIMIT %(row_limit)s
))
