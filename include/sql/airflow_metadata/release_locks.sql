-- A scheduler that was killed may leave the rows locked that it was looking at: its workers hold its connection open. Nothing
-- of Airflow's is silent for so long inside a transaction.
ALTER DATABASE airflow SET idle_in_transaction_session_timeout = '30s';
