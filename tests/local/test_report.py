"""The report of `make run`: what its numbers mean, and that it says when they do not add up."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from enrichment.batch import OffsetRange
from enrichment.caches.base import LookupCounts
from enrichment.conservation.report import ConservationReport, Defect
from include.local.report import PublishedBatch, Report, build_name, covered, of_ranges, show


def make_batch(
    batch_id: str = "b-1", ranges: tuple[OffsetRange, ...] = (OffsetRange(0, 0, 100),), **changed: Any
) -> PublishedBatch:
    """A batch of 100 messages that took 2 seconds."""
    found = {
        "batch_id": batch_id,
        "run_id": "scheduled",
        "ranges": ranges,
        "messages_read": 100,
        "cache_counts": {"geo": LookupCounts(messages=90, memory=40, postgres=30, misses=20, distinct=50)},
        "durations": {"drain": 0.5, "geo": 0.25, "user": 0.5, "business": 0.25, "publish": 0.75},
        "source_builds": {"geo": "GeoLite2-City-1530614871"},
        "published_at": datetime(2024, 1, 15, tzinfo=UTC),
    }
    return PublishedBatch(**{**found, **changed})


def make_report(**changed: Any) -> Report:
    """100 messages, of which 90 were enriched, in 4 seconds."""
    conservation = ConservationReport(
        read=100,
        analytics=90,
        partial=9,
        dead=10,
        enriched_by=Counter({"geo-ip": 45, "user-profile": 90}),
        partial_errors=Counter({"user-not-found": 9}),
        dead_reasons=Counter({"invalid-json": 10}),
    )
    report = Report(
        sent=100,
        seconds=4.0,
        conservation=conservation,
        batches=[make_batch()],
        sample={"service": "payment-service", "geo_country": "Österreich"},
        default_geo_database=True,
        max_error_rate=0.2,
        ui_url="http://localhost:8080",
        user="admin",
        password="secret-[word]",
    )
    return replace(report, **changed)


def shown(report: Report) -> str:
    """The report as it is printed."""
    output = io.StringIO()
    show(report, Console(file=output, width=120))
    return output.getvalue()


def test_report_is_ok_when_every_message_has_its_output() -> None:
    """All messages played are there, and conservation holds; messages of others in between do no harm."""
    assert make_report().ok
    assert make_report(sent=99).ok


@pytest.mark.parametrize(
    "wrong",
    [
        {"sent": 101},
        {"sent": 0, "conservation": ConservationReport()},
        {"conservation": ConservationReport(read=100, analytics=90, dead=9)},
        {"conservation": ConservationReport(read=100, analytics=100, defects=Counter({Defect.ALTERED: 1}))},
    ],
    ids=["fewer-in-the-topic-than-sent", "nothing", "do-not-add-up", "altered"],
)
def test_report_is_not_ok_when_the_counts_do_not_add_up(wrong: dict[str, Any]) -> None:
    """Anything that is missing or altered makes the report one of failure."""
    assert not make_report(**wrong).ok


def test_report_shows_every_number() -> None:
    """Messages, sources, cache hits by tier, errors by reason, both speeds, the geo database, a message, the login."""
    text = shown(make_report())
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert {
        "in (played) 100",
        "analytics 90",
        "of them partial 9",
        "dead letters 10",
        "geo-ip 45 50.0 %",
        "user-profile 90 100.0 %",
        "geo 90 40 30 20 0 77.8 %",
        "invalid-json 0 10",
        "user-not-found 9 0",
        "inside the tasks 50 2.00",
        "end to end, waiting included 25 4.00",
        '"geo_country": "Österreich"',
        "Airflow: http://localhost:8080, user admin, password secret-[word]",
    } <= lines
    assert "GeoLite2-City of 2018-07-03" in text
    assert "GEO_IP_DATABASE_PATH" in text
    assert "conservation holds" in text
    assert text.splitlines()[-1] == "See them in the UI: http://localhost:8080/plugin/stacklens"


def test_report_says_so_when_messages_are_missing() -> None:
    """The defect and an example of it are printed, and how many of the messages sent are in the topic."""
    conservation = ConservationReport(read=99, analytics=98, defects=Counter({Defect.MISSING: 1}))
    conservation.examples[Defect.MISSING].append("in 0@5: no output")
    text = shown(make_report(conservation=conservation))
    assert "conservation is BROKEN" in text
    assert "in 0@5: no output" in text
    assert "100 were sent, only 99 are there" in text


def test_report_says_nothing_of_the_default_when_another_geo_database_was_used() -> None:
    """The hint that the database is old belongs to the default one."""
    text = shown(
        make_report(default_geo_database=False, batches=[make_batch(source_builds={"geo": "mine"})], sample=None)
    )
    assert "Geo database: mine" in text
    assert "GEO_IP_DATABASE_PATH" not in text


def test_rates_count_what_ran_side_by_side_once() -> None:
    """Geo and user run at the same time: the longer of them counts; batches add up."""
    assert make_batch().task_seconds == 2.0
    report = make_report(batches=[make_batch(), make_batch("b-2")])
    assert report.task_rate == 50.0
    assert report.caches["geo"] == LookupCounts(messages=180, memory=80, postgres=60, misses=40, distinct=100)
    assert make_report(batches=[], seconds=0.0).task_rate == 0.0


@pytest.mark.parametrize(
    ("version", "name"),
    [("GeoLite2-City-1530614871", "GeoLite2-City of 2018-07-03"), ("mine", "mine"), ("a-b", "a-b")],
)
def test_geo_database_is_named_by_its_date(version: str, name: str) -> None:
    """A version that ends in the time of the build is shown with its date, any other as it is."""
    assert build_name(version) == name


def test_batches_are_chosen_by_their_offsets() -> None:
    """A batch belongs to the report when it holds one of the offsets played, and counts for those only."""
    inside = make_batch("inside", (OffsetRange(0, 50, 150), OffsetRange(1, 0, 10)))
    before = make_batch("before", (OffsetRange(0, 0, 100),))
    other = make_batch("other", (OffsetRange(2, 100, 200),))
    played = [OffsetRange(0, 100, 200), OffsetRange(1, 0, 10)]
    assert of_ranges([before, inside, other], played) == [inside]
    assert covered([before, inside, other], played) == 60


def test_report_says_so_when_no_geo_database_could_be_read() -> None:
    """A newcomer with a damaged file is told where to look."""
    assert "Geo database: none that could be read; the log of the task `geo` says why" in shown(
        make_report(batches=[make_batch(source_builds={})], default_geo_database=False)
    )


def test_name_of_a_build_when_it_is_of_no_year() -> None:
    """A damaged or made-up time of build is told as it is."""
    assert build_name("City-1099511627776") == "City-1099511627776"
    assert build_name("City-" + "9" * 30) == "City-" + "9" * 30
