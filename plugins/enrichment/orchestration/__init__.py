"""The only door to Airflow: connections and settings in, the tasks of the DAGs out.

A task opens what it needs, calls the library, records what it did, and returns a small manifest. Clients and pandas are
imported inside the tasks: a DAG file that imports these modules stays light. `common` has what all tasks share,
`batches` the tasks of a claimed batch, and each other module the tasks of one DAG.
"""
