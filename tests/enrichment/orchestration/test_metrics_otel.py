"""Metrics by OpenTelemetry: what the guide says of it holds of a process as short as a task's."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_DELTA

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.processes

# A process that sends a little and ends, as a task's does.
SENDER = """
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics.stats_utils import get_stats_factory
from enrichment.metrics import names
from enrichment.orchestration.metrics import send

stats.initialize(factory=get_stats_factory(), export_legacy_names=True)
send(lambda: [names.MESSAGES.of(7, "enriched"), names.MESSAGES.of(0, "dead"), names.STAGE.of(0.25, "drain")])
"""


class _Collector(BaseHTTPRequestHandler):
    requests: list[ExportMetricsServiceRequest]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.requests.append(ExportMetricsServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[ThreadingHTTPServer]:
    """An OpenTelemetry collector that keeps what it is sent."""
    handler = type("Collector", (_Collector,), {"requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_process_sends_what_it_has_when_it_ends(collector: ThreadingHTTPServer, tmp_path: Path) -> None:
    """With tags as attributes, as what this process adds, from the one instance that the guide has all processes be."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__METRICS__OTEL_ON": "True",
        "NO_PROXY": "127.0.0.1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
        "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=airflow",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "plugins"), os.environ.get("PYTHONPATH", "")]),
    }
    subprocess.run([sys.executable, "-c", SENDER], env=environment, check=True, timeout=120)
    handler: Any = collector.RequestHandlerClass
    [request] = handler.requests
    [resource] = request.resource_metrics
    attributes = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert attributes["service.instance.id"] == "airflow"
    metrics = {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
    messages = metrics["airflow.stacklens.messages"].sum
    assert messages.aggregation_temporality == AGGREGATION_TEMPORALITY_DELTA
    assert {point.attributes[0].value.string_value: point.as_int for point in messages.data_points} == {
        "enriched": 7,
        "dead": 0,
    }
    [stage] = metrics["airflow.stacklens.stage"].exponential_histogram.data_points
    assert (stage.attributes[0].key, stage.attributes[0].value.string_value, stage.sum) == ("stage", "drain", 250)
