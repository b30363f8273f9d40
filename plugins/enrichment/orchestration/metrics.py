"""Samples in, out they go by Airflow's own metrics, as `[metrics]` of its configuration says; by default nowhere.

What is sent may be lost and is never worth waiting for: no failure of it fails a task, and nothing is asked or counted
unless somebody has switched metrics on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.configuration import conf
from airflow.sdk import get_current_context

from enrichment.batch import LIVE

if TYPE_CHECKING:
    from enrichment.batch import Batch
    from enrichment.metrics.names import Sample
    from enrichment.resources import Resources
    from enrichment.rollup.service_levels import Breach

log = logging.getLogger(__name__)

# A look must not hold up the run when something does not answer.
PATIENCE_SECONDS = 2.0


def is_on(option: str) -> bool:
    """Whether an option of Airflow's section `[metrics]` is set."""
    return conf.getboolean("metrics", option, fallback=False)


def are_metrics_on() -> bool:
    """Whether Airflow sends metrics anywhere."""
    return any(map(is_on, ("statsd_datadog_enabled", "statsd_on", "otel_on")))


def are_tags_sent() -> bool:
    """Whether the backend that Airflow chooses takes tags: plain StatsD has none, and Airflow drops them in silence."""
    if is_on("statsd_datadog_enabled"):
        return conf.getboolean("metrics", "statsd_datadog_metrics_tags", fallback=True)
    return is_on("statsd_influxdb_enabled") if is_on("statsd_on") else True


def send(make_samples: Callable[[], Iterable[Sample]]) -> None:
    """Send samples, which are made only if metrics are on. Never raises."""
    try:
        if are_metrics_on():
            with_tags = are_tags_sent()
            for sample in make_samples():
                _send(sample, with_tags=with_tags)
    except Exception:
        log.warning("metrics.not_sent", exc_info=True)


def _send(sample: Sample, *, with_tags: bool) -> None:
    """Where there are no tags, their values follow the name, in the list's order."""
    from airflow.sdk.observability import stats

    from enrichment.metrics.names import MetricKind

    tags = {name: stats.normalize_name_for_stats(value, log_warning=False) for name, value in sample.tags.items()}
    name = sample.metric.name
    if not with_tags:
        name = ".".join([name, *(value.replace(".", "_") for value in tags.values())])
    given = tags if with_tags and tags else None
    match sample.metric.kind:
        case MetricKind.COUNTER:
            stats.incr(name, int(sample.value), tags=given)
        case MetricKind.GAUGE:
            stats.gauge(name, sample.value, tags=given)
        case MetricKind.TIMING:
            stats.timing(name, timedelta(seconds=sample.value), tags=given)


def send_batch(r: Resources, batch: Batch) -> None:
    """Send the figures of a batch that has just been published: of live draining only, as the page has them."""
    from enrichment.metrics.batch import find_figures, samples_of_batch

    def samples() -> Iterable[Sample]:
        found = find_figures(r.postgres, batch.batch_id)
        return () if found is None else samples_of_batch(found)

    if batch.purpose.kind == LIVE.kind and not batch.dry_run:
        send(samples)


@contextmanager
def sending_the_moment(r: Resources) -> Iterator[None]:
    """After the block, and after a failure of it, look at how live enrichment is and send that: once a minute, by the
    scheduled run, however many others there are."""
    try:
        yield
    except Exception:
        _send_moment(r)
        raise
    _send_moment(r)


def is_scheduled() -> bool:
    """Whether the run of this task is one of the timetable's."""
    return get_current_context()["dag_run"].run_type == "scheduled"


def _send_moment(r: Resources) -> None:
    send(lambda: _look(r) if is_scheduled() else ())


def _look(r: Resources) -> Iterable[Sample]:
    import psycopg

    from enrichment.group.watch import BacklogWatch
    from enrichment.health.now import look
    from enrichment.health.verdict import judge, unknown
    from enrichment.metrics.moment import samples_of_moment

    try:
        with (
            closing(BacklogWatch(r.settings.kafka, PATIENCE_SECONDS)) as watch,
            closing(r.query_connection(PATIENCE_SECONDS)) as connection,
        ):
            now = look(connection, watch, r.kafka_config, r.settings)
    except psycopg.Error as failed:
        return samples_of_moment(unknown(failed), None)
    return samples_of_moment(judge(now, r.settings.service_levels), now)


def send_breaches(breaches: Collection[Breach]) -> None:
    """Send which service levels the hour has missed: the last one, not one that is rolled up again."""
    from enrichment.metrics.moment import samples_of_breaches

    send(lambda: samples_of_breaches(breaches) if is_scheduled() else ())
