"""The StackLens page of Airflow's UI: what each of its tabs asks for, each within limits of time and rows. It changes
nothing."""
