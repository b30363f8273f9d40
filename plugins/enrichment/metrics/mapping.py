"""The list of metrics in, the mapping of Prometheus' `statsd_exporter` out: dotted names and tagged ones become the
same series, with labels."""

from __future__ import annotations

from collections.abc import Iterator

from enrichment.metrics.names import METRICS, Metric, MetricKind, SentWith

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# A gauge that nobody sends any more is gone after a while, rather than right for ever. That of a batch stays.
TIME_TO_LIVE = {SentWith.MINUTE: "5m", SentWith.HOUR: "3h"}


def render(prefix: str) -> str:
    """The mapping, as YAML. `prefix` is that of Airflow's metrics (`statsd_prefix`)."""
    lines = [
        "# How Prometheus' statsd_exporter (--statsd.mapping-config) names the metrics of StackLens, tagged or not.",
        f"# Made by `PYTHONPATH=plugins python -m enrichment.metrics --prefix {prefix}`; see docs/metrics.md.",
        "mappings:",
    ]
    return "\n".join([*lines, *(line for metric in METRICS for line in _mappings(metric, prefix))]) + "\n"


def _mappings(metric: Metric, prefix: str) -> Iterator[str]:
    match = f"{prefix}.{metric.name}"
    yield from _mapping(metric, match)  # tags become labels by themselves
    if metric.tags:
        yield from _mapping(metric, ".".join([match, *("*" for _ in metric.tags)]))
        yield "    labels:"
        yield from (f"      {tag}: ${number}" for number, tag in enumerate(metric.tags, 1))


def _mapping(metric: Metric, match: str) -> Iterator[str]:
    yield f'  - match: "{match}"'
    yield f"    name: {metric.prometheus_name}"
    yield f'    help: "{metric.meaning}"'
    if metric.kind is MetricKind.TIMING:
        yield "    observer_type: histogram"
        yield f"    histogram_options: {{buckets: [{', '.join(map(str, BUCKETS))}]}}"
    if metric.kind is MetricKind.GAUGE and metric.sent_with in TIME_TO_LIVE:
        yield f"    ttl: {TIME_TO_LIVE[metric.sent_with]}"
