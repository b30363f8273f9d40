# The image of every Airflow component and of the user-profile stand-in.
#
# The slim base: the full one carries providers (FAB among them) whose requirements contradict our constraints.
FROM apache/airflow:slim-3.3.2-python3.11

COPY --chown=airflow:0 requirements.txt constraints.txt /opt/airflow/

# What the workers of docker-compose.yaml need beyond the pipeline; `pip check` refuses an image that does not fit together.
RUN pip install --no-cache-dir -c /opt/airflow/constraints.txt -r /opt/airflow/requirements.txt \
        apache-airflow-providers-celery==3.26.0 celery==5.6.3 kombu==5.7.0 redis==8.1.0 \
 && pip check

COPY --chown=airflow:0 config /opt/airflow/config
COPY --chown=airflow:0 dags /opt/airflow/dags
COPY --chown=airflow:0 include /opt/airflow/include
COPY --chown=airflow:0 plugins /opt/airflow/plugins

# Owned by the user that writes to them: a new named volume takes its owner from here.
RUN mkdir -p /opt/airflow/logs /opt/airflow/staging /opt/airflow/geoip

ENV PYTHONPATH=/opt/airflow:/opt/airflow/plugins
WORKDIR /opt/airflow
USER airflow
