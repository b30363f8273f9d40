"""The only door to Airflow: connections and settings in, the tasks of the DAGs out.

A task opens what it needs, calls the library, records what it did, and returns a small manifest. Clients and pandas are
imported inside the tasks: a DAG file that imports these modules stays light. `common` is what all tasks have, `batches`
what is done to a batch whoever claimed it, and each other module the tasks of one DAG.
"""
