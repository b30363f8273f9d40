"""Airflow's metadata and the pipeline's own past."""
