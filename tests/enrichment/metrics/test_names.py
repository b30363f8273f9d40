"""The list of metrics, and what follows it: the guide, the mapping of `statsd_exporter`, the dashboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # which Airflow brings, without types

from enrichment.metrics.mapping import render
from enrichment.metrics.names import METRICS, Metric, MetricKind, SentWith

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "metrics.md").read_text()
MAPPING = (ROOT / "include" / "grafana" / "statsd_mapping.yaml").read_text()
DASHBOARD: dict[str, Any] = json.loads((ROOT / "include" / "grafana" / "stacklens.json").read_text())
# What would have as many values as there are messages, batches or users.
UNBOUNDED = {"batch_id", "run_id", "offset", "key", "user", "address", "trace_id", "request_id"}


def series(metric: Metric) -> set[str]:
    """The names that Prometheus has of a metric."""
    name = metric.prometheus_name
    return {f"{name}_{part}" for part in ("bucket", "sum", "count")} if metric.kind is MetricKind.TIMING else {name}


def queries() -> Iterator[str]:
    """What the dashboard asks for."""
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_names_are_distinct_and_taken_by_every_backend() -> None:
    """As StatsD's dotted names, and as those of Prometheus."""
    assert (
        len({metric.name for metric in METRICS}) == len({metric.prometheus_name for metric in METRICS}) == len(METRICS)
    )
    assert [metric.name for metric in METRICS if not re.fullmatch(r"stacklens\.[a-z_]+", metric.name)] == []
    assert {tag for metric in METRICS for tag in metric.tags} & UNBOUNDED == set()


def test_guide_has_the_list() -> None:
    """Each metric with its kind, unit, tags, when it is sent, what it says, and its name in Prometheus; no other."""
    rows = re.findall(r"^\| (`stacklens\.\w+` \|.*) \|$", GUIDE, re.MULTILINE)
    assert rows == [
        f"`{m.name}` | {m.kind} | {m.unit} | {', '.join(f'`{tag}`' for tag in m.tags)} | {m.sent_with} | {m.meaning} "
        f"| `{m.prometheus_name}`"
        for m in METRICS
    ]
    assert {f"`{each}`" for each in SentWith} <= set(re.findall(r"`\w+`", GUIDE))


def test_guide_names_no_other_metric() -> None:
    """What it tells people to ask Prometheus for is there."""
    known = set[str]().union(*map(series, METRICS)) | {metric.prometheus_name for metric in METRICS}
    assert set(re.findall(r"\bstacklens_[a-z_]+", GUIDE)) - known - {
        "stacklens_enrichment", "stacklens_repair", "stacklens_metrics_rollup",
    } == set()  # fmt: skip


def test_mapping_is_that_of_the_list() -> None:
    """The file is what the command writes, and it can be read: each dotted name has a label for each tag."""
    assert render("airflow") == MAPPING
    mappings = yaml.safe_load(MAPPING)["mappings"]
    matches = {mapping["match"]: mapping for mapping in mappings}
    assert len(matches) == len(mappings)
    for metric in METRICS:
        dotted = matches[".".join(["airflow", metric.name, *("*" for _ in metric.tags)])]
        assert dotted["name"] == matches[f"airflow.{metric.name}"]["name"] == metric.prometheus_name
        assert list(dotted.get("labels", {})) == list(metric.tags)
        assert ("ttl" in dotted) == (metric.kind is MetricKind.GAUGE and metric.sent_with is not SentWith.BATCH)


def test_mapping_follows_the_prefix() -> None:
    """That of Airflow's `statsd_prefix`."""
    assert {m["match"].partition(".")[0] for m in yaml.safe_load(render("other"))["mappings"]} == {"other"}


def test_dashboard_asks_for_listed_metrics_only() -> None:
    """A metric that is renamed must not leave an empty panel."""
    known = set[str]().union(*map(series, METRICS))
    assert set(re.findall(r"\bstacklens_\w+", " ".join(queries()))) - known == set()


def test_dashboard_groups_by_tags_that_there_are() -> None:
    """And its legends and conditions name them."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            asked = [m for m in METRICS if series(m) & set(re.findall(r"\bstacklens_\w+", target["expr"]))]
            tags = {tag for metric in asked for tag in metric.tags} | {"le"}
            by = re.findall(r"(?:by|on) \(([^)]+)\)", target["expr"])
            named = {tag.strip() for group in by for tag in group.split(",")}
            named |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            named |= set(re.findall(r"(\w+)=~?\"", target["expr"]))
            assert named - tags == set(), panel["title"]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_on_the_dashboard(metric: Metric) -> None:
    """In one panel or more."""
    asked = set(re.findall(r"\bstacklens_\w+", " ".join(queries())))
    assert series(metric) & asked


def test_dashboard_is_one_that_grafana_takes() -> None:
    """Panels have ids, titles and places of their own; all ask the data source that its user chooses."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
    [variable] = DASHBOARD["templating"]["list"]
    sources = [*(panel["datasource"] for panel in panels), *(t["datasource"] for p in panels for t in p["targets"])]
    assert {(source["type"], source["uid"]) for source in sources} == {("prometheus", f"${{{variable['name']}}}")}
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
