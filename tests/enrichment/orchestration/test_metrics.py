"""How samples leave a task: off by default, dotted or with tags, and never at the task's expense."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk import Context
from airflow.sdk.execution_time.context import set_current_context

from enrichment.batch import REDRIVE, REPLAY, Batch, OffsetRange, Purpose
from enrichment.enrichers import ENRICHERS
from enrichment.metrics import names
from enrichment.metrics.names import Sample
from enrichment.orchestration import metrics
from enrichment.orchestration.metrics import (
    are_metrics_on,
    are_tags_sent,
    send,
    send_batch,
    send_breaches,
    sending_the_moment,
)
from tests.fixtures.scheduler import eventually
from tests.fixtures.statsd import StatsdServer

SAMPLES = [
    names.MESSAGES.of(7, "enriched"),
    names.ANSWERS.of(0, "a.b", "memory"),
    names.OLDEST_WAITING.of(1.5),
    names.STAGE.of(0.25, "drain"),
    names.BREAKER.of(2, "http://x,y=z"),
]


def received(statsd: StatsdServer, count: int) -> list[tuple[str, str, float]]:
    """As many values as were sent."""
    return eventually(lambda: found if len(found := statsd.values()) == count else None, f"{count} values", 10, 0.01)


def switch(monkeypatch: pytest.MonkeyPatch, *options: str, **values: str) -> None:
    """Set options of Airflow's section `[metrics]`."""
    for option, value in {**dict.fromkeys(options, "True"), **values}.items():
        monkeypatch.setenv(f"AIRFLOW__METRICS__{option.upper()}", value)


def in_run(run_type: str) -> Any:
    """The context of a task of such a run."""
    return set_current_context(cast(Context, {"dag_run": SimpleNamespace(run_type=run_type)}))


def test_nothing_is_made_unless_somebody_wants_it() -> None:
    """Metrics are off by default, as Airflow's are: neither a query nor a look is made for them."""

    def samples() -> Iterable[Sample]:
        raise AssertionError

    assert not are_metrics_on()
    send(samples)


def test_plain_statsd_has_the_values_of_tags_in_names(statsd: StatsdServer) -> None:
    """It has no tags; a value's own dots must not look like further parts."""
    send(lambda: SAMPLES)
    assert received(statsd, len(SAMPLES)) == [
        ("stacklens.messages.enriched", "c", 7),
        ("stacklens.answers.a_b.memory", "c", 0),
        ("stacklens.oldest_waiting", "g", 1.5),
        ("stacklens.stage.drain", "ms", 250),
        ("stacklens.breaker.http___x_y_z", "g", 2),
    ]


def test_statsd_with_tags_has_tags(statsd: StatsdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no second name beside."""
    switch(monkeypatch, "statsd_influxdb_enabled")
    send(lambda: SAMPLES)
    assert received(statsd, len(SAMPLES)) == [
        ("stacklens.messages,outcome=enriched", "c", 7),
        ("stacklens.answers,cache=a.b,tier=memory", "c", 0),
        ("stacklens.oldest_waiting", "g", 1.5),
        ("stacklens.stage,stage=drain", "ms", 250),
        ("stacklens.breaker,source=http___x_y_z", "g", 2),
    ]


@pytest.mark.parametrize(
    ("options", "values", "tagged"),
    [
        (("statsd_on",), {}, False),
        (("statsd_on", "statsd_influxdb_enabled"), {}, True),
        (("statsd_datadog_enabled",), {}, True),
        (("statsd_datadog_enabled", "statsd_on"), {"statsd_datadog_metrics_tags": "False"}, False),
        (("otel_on",), {}, True),
        (("otel_on", "statsd_on"), {}, False),
    ],
    ids=["statsd", "statsd with tags", "datadog", "datadog without tags", "otel", "statsd before otel"],
)
def test_tags_are_for_backends_that_take_them(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], values: dict[str, str], *, tagged: bool
) -> None:
    """Of the backend that Airflow chooses."""
    switch(monkeypatch, *options, **values)
    assert are_metrics_on()
    assert are_tags_sent() is tagged


def test_failure_costs_the_metrics_alone(statsd: StatsdServer, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it is: the task goes on, and its log says what was lost."""

    def samples() -> Iterable[Sample]:
        yield SAMPLES[0]
        raise RuntimeError("no figures")

    with caplog.at_level(logging.WARNING):
        send(samples)
    assert len(received(statsd, 1)) == 1
    assert "metrics.not_sent" in caplog.text
    assert "no figures" in caplog.text


@pytest.mark.parametrize("purpose", [Purpose(REPLAY), Purpose(REDRIVE)], ids=lambda purpose: str(purpose.kind))
def test_only_live_batches_are_counted(
    statsd: StatsdServer, caplog: pytest.LogCaptureFixture, purpose: Purpose
) -> None:
    """What is published once more is not throughput: nothing is asked of the database for it."""
    batch = Batch("b", "t", "g", 0, (OffsetRange(0, 0, 1),), purpose=purpose)
    send_batch(cast(Any, None), batch)
    assert (statsd.values(), caplog.text) == ([], "")


@pytest.mark.parametrize(("run_type", "sent"), [("scheduled", True), ("manual", False), ("asset_triggered", False)])
def test_moment_is_sent_by_the_run_of_the_minute(
    statsd: StatsdServer, monkeypatch: pytest.MonkeyPatch, run_type: str, *, sent: bool
) -> None:
    """However many runs messages have started in between."""
    looks: list[Any] = []

    def look(resources: Any) -> list[Sample]:
        looks.append(resources)
        return SAMPLES[:1]

    monkeypatch.setattr(metrics, "_look", look)
    with in_run(run_type), sending_the_moment(cast(Any, "resources")):
        assert looks == []
    assert looks == (["resources"] if sent else [])
    received(statsd, len(looks))


def test_moment_is_sent_after_a_failure(statsd: StatsdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above all then: the task's own error goes on."""
    monkeypatch.setattr(metrics, "_look", lambda r: SAMPLES[:1])
    with pytest.raises(KeyError), in_run("scheduled"), sending_the_moment(cast(Any, None)):
        raise KeyError
    received(statsd, 1)


def test_moment_is_not_looked_at_while_the_task_is_stopped(
    statsd: StatsdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever marks a run as failed waits for it."""
    monkeypatch.setattr(metrics, "_look", lambda r: pytest.fail("looked"))
    with pytest.raises(SystemExit), in_run("scheduled"), sending_the_moment(cast(Any, None)):
        raise SystemExit


@pytest.mark.parametrize(("run_type", "sent"), [("scheduled", True), ("manual", False), ("backfill", False)])
def test_breaches_are_those_of_the_last_hour(statsd: StatsdServer, run_type: str, *, sent: bool) -> None:
    """An hour that is rolled up again says nothing about now."""
    with in_run(run_type):
        send_breaches([])
    levels = received(statsd, 4 + len(ENRICHERS) if sent else 0)
    assert all(name.startswith("stacklens.breached.") for name, _, _ in levels)
