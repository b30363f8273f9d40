"""The figures that leave through Airflow's own metrics, for StatsD, OpenTelemetry, and whatever is behind them."""
