# The image of every Airflow component, of the user-profile stand-in, and of what makes topics and schema.
#
# The slim base: the full one carries providers that nothing here uses, each with requirements of its own.
FROM apache/airflow:slim-3.3.2-python3.11

COPY --chown=airflow:0 requirements.txt requirements-celery.txt requirements-s3.txt constraints.txt /opt/airflow/

# `pip check` refuses an image that does not fit together.
RUN pip install --no-cache-dir -c /opt/airflow/constraints.txt \
        -r /opt/airflow/requirements.txt -r /opt/airflow/requirements-celery.txt \
        -r /opt/airflow/requirements-s3.txt \
 && pip check

COPY --chown=airflow:0 config /opt/airflow/config
COPY --chown=airflow:0 dags /opt/airflow/dags
COPY --chown=airflow:0 include /opt/airflow/include
COPY --chown=airflow:0 plugins /opt/airflow/plugins

# Owned by the user that writes to them: a new named volume takes its owner from here.
RUN mkdir -p /opt/airflow/logs /opt/airflow/staging /opt/airflow/geoip /opt/airflow/own

ENV PYTHONPATH=/opt/airflow:/opt/airflow/plugins
WORKDIR /opt/airflow
USER airflow

# Compiles the loops over messages, once: what the first task would do else.
RUN python -c 'import enrichment.batches.pipeline'
