"""A fourth enrichment, declared here and nowhere else, through its whole life on the real Kafka and PostgreSQL.

`watch` says by the session of a message whether that is on a list. Its key is no field of the contract.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from airflow.dag_processing.dagbag import DagBag

from enrichment.batch import Batch
from enrichment.batches import stages
from enrichment.batches.kinds import LIVE_KIND
from enrichment.batches.pipeline import run_stages
from enrichment.batches.staged import Drained, Published
from enrichment.batches.stages import LookedUp
from enrichment.caches.base import Entry, State
from enrichment.caches.eviction import statistics
from enrichment.caches.tables import make_tables
from enrichment.conservation.check import check
from enrichment.conservation.committed import log_ranges, read
from enrichment.conservation.report import ConservationReport, Defect
from enrichment.enrichers import ENRICHERS
from enrichment.enrichers.business import BUSINESS, DEFAULT_RULES
from enrichment.enrichers.declare import HourlyCacheSettings, LookupEnricher, prefixed
from enrichment.enrichers.registry import REGISTRY
from enrichment.enrichers.tables import cache_tables
from enrichment.enrichers.testing import declared
from enrichment.enrichers.wiring import OpenedSource, Site
from enrichment.errors import OutageHeld, SettingsError, SourceUnavailable, StagingMissing
from enrichment.housekeeping.caches import evict_cache, renew_cache
from enrichment.repair.pending import PendingState
from enrichment.rollup.service_levels import find_breaches
from enrichment.rollup.table import Rollups, hour_of
from enrichment.settings import load
from enrichment.variables import room_config
from tests.conftest import REPOSITORY
from tests.fixtures.partials import headers_of, outputs, planned, publish_all, repair_all, run, states, value
from tests.fixtures.pipeline import MakePipeline, Pipeline, message
from tests.fixtures.redriven import Redriven
from tests.fixtures.replayer import START, Replayer
from tests.fixtures.user_service import UserService

MESSAGES = 60
NAMES = ["geo-ip", "user-profile", "watch-list", "business-context"]
QUICK = {"USER_SERVICE_RETRIES": "0", "KAFKA_CHUNK_SIZE": "25", "USER_SERVICE_BREAKER_FAILURES": "1000"}


class Watch(msgspec.Struct, frozen=True, gc=False, rename=prefixed("watch_")):
    """What the list says of a session."""

    category: str | None = None
    score: float | None = None
    is_listed: bool | None = None
    days: int | None = None


class WatchSettings(HourlyCacheSettings):
    """The list and its cache."""

    model_config = room_config("WATCH_")


WATCH = LookupEnricher(
    name="watch",
    source="watch-list",
    title="watch by session",
    doc="Add what the list says of each message's session.",
    key="session_id",
    columns=Watch,
    settings=WatchSettings,
    open=f"{__name__}:open_list",
    outages={"watch-list-unavailable": "the list could not be asked"},
    unknown={"watch-list-not-found": "the list has no such sessions"},
)


class WatchList:
    """The source: a list that can be out of reach, for all sessions or for some."""

    version = "1"

    def __init__(self) -> None:
        self.known = {f"session-{n}": Watch(f"category {n % 3}", n / 10, n % 2 == 0, n) for n in range(20)}
        self.is_down = False
        self.broken: frozenset[str] = frozenset()
        self.asked: list[str] = []

    def fetch_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """See `LookupSource`."""
        if self.is_down:
            raise SourceUnavailable("watch-list-unavailable", "the list is out of reach")
        self.asked += keys
        return {key: self._entry(key) for key in keys}

    def _entry(self, key: str) -> Entry:
        if key in self.broken:
            return Entry(State.FAILED, reason="watch-list-unavailable")
        found = self.known.get(key)
        return Entry(State.ABSENT, reason="watch-list-not-found") if found is None else Entry(State.FOUND, found)


LISTS: list[WatchList] = []


def open_list(_site: Site, _settings: WatchSettings) -> OpenedSource:
    """The list of the test that runs."""
    return OpenedSource(LISTS[-1], build="list-1")


@pytest.fixture
def watched() -> Iterator[WatchList]:
    """The list, and the enrichment declared before the risk."""
    LISTS.append(WatchList())
    *first, last = ENRICHERS
    with declared(*first, WATCH, last):
        yield LISTS[-1]
    LISTS.pop()


@pytest.fixture
def make(make_pipeline: MakePipeline, watched: WatchList) -> Callable[..., Pipeline]:
    """Makes pipelines with four enrichments; the database is upgraded to them as by `python -m enrichment.store`."""
    assert watched is LISTS[-1]

    def upgraded(**settings: str) -> Pipeline:
        return with_table(make_pipeline(**{**QUICK, **settings}))

    return upgraded


def with_table(pipeline: Pipeline) -> Pipeline:
    """The same pipeline, its cache tables as they are declared."""
    with psycopg.connect(pipeline.dsn) as connection:
        make_tables(connection, cache_tables())
    return pipeline


def messages(count: int = MESSAGES, **fields: Any) -> list[bytes]:
    """Messages with sessions, all of them known."""
    return [message(n, **{"session_id": f"session-{n % 20}", **fields}) for n in range(count)]


def published(pipeline: Pipeline) -> list[dict[str, Any]]:
    """All enriched messages, as objects."""
    return [value(one) for one in outputs(pipeline)]


def expect_conserved(pipeline: Pipeline) -> None:
    """Every message has exactly one right output."""
    report = pipeline.check()
    assert report.ok, report.summary()


def run_tasks(pipeline: Pipeline) -> None:
    """What waits, by the functions that Airflow's tasks are."""

    def drain(batch: Batch) -> Drained:
        with pipeline.resources() as r:
            return stages.drain_batch(r, LIVE_KIND, batch)

    def look_up(drained: Drained, declaration: LookupEnricher, _earlier: Sequence[LookedUp]) -> LookedUp:
        with pipeline.resources() as r:
            return stages.look_up(r, declaration, drained.batch)

    def publish(drained: Drained, lookups: Mapping[str, LookedUp]) -> Published | None:
        with pipeline.resources() as r:
            return stages.publish_batch(r, LIVE_KIND, drained, lookups)

    for batch in pipeline.claim():
        assert run_stages(batch, drain, look_up, publish) is not None


def test_messages_are_enriched_by_four(make: Callable[..., Pipeline], watched: WatchList) -> None:
    """Drain finds the new key, the columns stand in the order of the declarations, and the source is named; the second
    batch has its answers from the table."""
    pipeline = make()
    for run_id in ("first", "second"):
        pipeline.produce(messages())
        publish_all(pipeline, run_id)
    expect_conserved(pipeline)
    found = published(pipeline)
    assert len(found) == 2 * MESSAGES
    for one in found:
        number = int(one["session_id"].removeprefix("session-"))
        expected = msgspec.to_builtins(watched.known[one["session_id"]])
        assert {name: one[name] for name in expected} == expected
        assert expected["watch_days"] == number
        assert [name for name in NAMES if name in one["enrichment_sources"]] == one["enrichment_sources"]
        assert "watch-list" in one["enrichment_sources"]
        assert list(one)[-len(REGISTRY.output_columns) :] == list(REGISTRY.output_columns)
    assert len(watched.asked) == len(set(watched.asked)) == 20
    with psycopg.connect(pipeline.dsn) as connection:
        rows = connection.execute("SELECT session_id, category, score, is_listed, days FROM watch_cache").fetchall()
    assert sorted(rows) == sorted((key, *msgspec.structs.astuple(one)) for key, one in watched.known.items())


def test_keys_come_from_any_message(make: Callable[..., Pipeline], watched: WatchList) -> None:
    """Text, a number as it is written, nothing, and in messages that are not flat; what the list does not know is an
    answer."""
    watched.known["7.50"] = Watch("by number")
    pipeline = make()
    number = message(0).replace(b'"trace_id"', b'"session_id": 7.50, "trace_id"', 1)
    pipeline.produce([
        number, message(1), message(2, session_id=""), message(3, session_id=None), message(4, session_id="nobody"),
        message(5, session_id="session-5", more={"nested": [1]}),
    ])  # fmt: skip
    publish_all(pipeline, "run")
    expect_conserved(pipeline)
    found = {one["message"].split()[1]: one for one in published(pipeline)}
    assert [found[str(n)]["watch_category"] for n in range(6)] == ["by number", None, None, None, None, "category 2"]
    assert found["4"]["enrichment_errors"] == ["watch-list-not-found"]
    assert all("watch-list-not-found" not in (found[str(n)]["enrichment_errors"] or ()) for n in (1, 2, 3))


def test_rules_read_its_columns_and_its_status(
    make: Callable[..., Pipeline], watched: WatchList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The risk is computed from whatever stands before it, and its task waits for all of that."""
    rules = tmp_path / "rules.toml"
    rules.write_text(
        DEFAULT_RULES.read_text()
        + '[[rules]]\nname = "listed"\nweight = 0.2\nwhen = [{ column = "watch_score", op = ">", value = 1.0 }]\n'
        '[[rules]]\nname = "unlisted"\nweight = 0.1\n'
        'when = [{ column = "watch_status", op = "==", value = "watch-list-not-found" }]\n'
    )
    monkeypatch.setenv("BUSINESS_RISK_RULES_PATH", str(rules))
    assert watched.known
    pipeline = make()
    pipeline.produce(messages(20) + messages(1, session_id="nobody"))
    publish_all(pipeline, "run")
    found = published(pipeline)
    listed = {one["session_id"] for one in found if "listed" in (one["business_fraud_indicators"] or ())}
    assert listed == {f"session-{n}" for n in range(11, 20)}
    assert ["unlisted" in one["business_fraud_indicators"] for one in found if one["session_id"] == "nobody"] == [True]
    assert REGISTRY.earlier(BUSINESS) == (*ENRICHERS[:2], WATCH)


def test_outage_is_published_partial_and_repaired(make: Callable[..., Pipeline], watched: WatchList) -> None:
    """The batch is pending for the new source; its corrections fill its columns in and keep all others, and the risk is
    computed anew."""
    pipeline = make()
    watched.is_down = True
    pipeline.produce(messages())
    [batch] = publish_all(pipeline, "down")
    before = {one["message"]: one for one in published(pipeline)}
    assert all("watch-list-unavailable" in one["enrichment_errors"] for one in before.values())
    assert states(pipeline) == [("watch-list", "open", MESSAGES, 0, 0)]
    one = planned(pipeline, batch)
    assert one is not None
    assert run(pipeline, one) == (False, {"watch-list": PendingState.OPEN})  # still down
    watched.is_down = False
    assert repair_all(pipeline, batch) == [True]
    expect_conserved(pipeline)
    corrections = published(pipeline)[MESSAGES:]
    assert len(published(pipeline)) == 2 * MESSAGES
    latest = {one["message"]: one for one in published(pipeline)} | {
        one["message"]: one for one in corrections if "watch-list" in one["enrichment_sources"]
    }
    for name, corrected in latest.items():
        added = msgspec.to_builtins(watched.known[corrected["session_id"]])
        sources = [s for s in NAMES if s == "watch-list" or s in before[name]["enrichment_sources"]]
        errors = [e for e in before[name]["enrichment_errors"] if e != "watch-list-unavailable"] or None
        expected = before[name] | added | {"enrichment_sources": sources, "enrichment_errors": errors}
        assert corrected == expected | {"enriched_at": corrected["enriched_at"]}
    assert states(pipeline)[0][1] == "repaired"


def test_repair_of_another_source_keeps_it(
    make: Callable[..., Pipeline], watched: WatchList, user_service: UserService
) -> None:
    """Columns, names and errors of the new source stay as they were when users are filled in; its list is not asked."""
    pipeline = make()
    user_service.set_fault(status=503)
    pipeline.produce(messages() + messages(5, session_id="nobody"))
    [batch] = publish_all(pipeline, "down")
    user_service.end_fault()
    asked = len(watched.asked)
    watched.known.clear()
    assert repair_all(pipeline, batch) == [True]
    expect_conserved(pipeline)
    assert len(watched.asked) == asked
    corrected = [one for one in published(pipeline) if "user-service-error" not in (one["enrichment_errors"] or ())]
    assert len(corrected) == MESSAGES + 5
    for one in corrected:
        is_known = one["session_id"] != "nobody"
        assert ("watch-list" in one["enrichment_sources"]) == is_known
        assert (one["watch_category"] is not None) == is_known
        assert ("watch-list-not-found" in (one["enrichment_errors"] or ())) != is_known


def test_outage_holds_the_batch_where_that_is_the_policy(make: Callable[..., Pipeline], watched: WatchList) -> None:
    """By name, until the list is back."""
    pipeline = make(ENRICHMENT_OUTAGE_POLICY="hold")
    pipeline.produce(messages(20))
    [batch] = pipeline.claim()
    drained = pipeline.drain(batch)
    watched.is_down = True
    with pipeline.resources() as r, pytest.raises(OutageHeld, match="watch-list is down"):
        stages.look_up(r, WATCH, drained.batch)
    watched.is_down = False
    with pipeline.resources() as r:
        looked_up = stages.look_up(r, WATCH, drained.batch)
    assert (looked_up.outage, looked_up.build, looked_up.counts.messages) == (None, "list-1", 20)


def test_required_source_makes_dead_letters_which_a_redrive_takes(
    make: Callable[..., Pipeline], watched: WatchList, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the list failed for a few sessions, their messages are set aside with its reason; sent in again once it
    answers."""
    pipeline = make(ENRICHMENT_REQUIRED_SOURCES="watch-list")
    watched.broken = frozenset({"session-3"})
    pipeline.produce(messages())
    publish_all(pipeline, "run")
    report = pipeline.check()
    assert report.ok, report.summary()
    assert (report.analytics, report.dead_reasons) == (MESSAGES - 3, {"watch-list-unavailable": 3})
    watched.broken = frozenset()
    monkeypatch.setenv("ENRICHMENT_REQUIRED_SOURCES", "")
    redriven = Redriven(pipeline)
    assert redriven.run() == (3, 0)
    redriven.check(analytics=MESSAGES, dead=0, redriven=3)


def test_replay_shows_what_the_list_says_now(make_replayer: Callable[..., Replayer], watched: WatchList) -> None:
    """The differences name the new columns, and the filter of stored errors knows the source."""
    replayer = make_replayer(**QUICK, CACHE_NEGATIVE_TTL_MINUTES="0.000001")
    pipeline = with_table(replayer.pipeline)
    sessions = ["session-1", "nobody"] * 10
    replayer.produce([START + n for n in range(20)], lambda n: message(n, session_id=sessions[n]))
    for batch in pipeline.claim():
        pipeline.finish(pipeline.stage(batch))
    watched.known["nobody"] = Watch("new")
    said = replayer.replay(0, replay_id="filtered", errors=("watch-list-not-found",))
    assert (said["differences"]["replayed"], said["differences"]["changed"]) == (10, 10)
    assert said["differences"]["fields"]["watch_category"] == 10
    assert said["differences"]["fields"]["enrichment_sources"] == 10


def test_cache_is_evicted_renewed_and_counted(
    make: Callable[..., Pipeline], watched: WatchList, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the ceiling the rows go that were not used for longest; statistics and renewal know the table."""
    pipeline = make()
    pipeline.produce(messages(20))
    run_tasks(pipeline)
    monkeypatch.setenv("WATCH_CACHE_MAX_ROWS", "5")
    with psycopg.connect(pipeline.dsn) as connection:
        connection.execute("UPDATE watch_cache SET last_used_at = now() - make_interval(hours => days::integer)")
    with pipeline.resources() as r:
        evicted = evict_cache(r, WATCH)
        found = statistics(r.maintenance)
    assert (evicted.surplus, evicted.entries) == (15, 5)
    assert list(found) == ["geo", "user", "watch", "business"]
    assert (found["watch"].entries, found["watch"].messages, found["watch"].misses) == (5, 20, 20)
    with psycopg.connect(pipeline.dsn) as connection:
        left = {key for (key,) in connection.execute("SELECT session_id FROM watch_cache")}
        connection.execute(
            "UPDATE watch_cache SET fetched_at = now() - interval '59 minutes', last_used_at = now(),"
            " expires_at = now() + interval '1 minute'"
        )
    assert left == {f"session-{n}" for n in range(5)}
    asked = len(watched.asked)
    with pipeline.resources() as r:
        assert renew_cache(r, WATCH).found == 5
    assert len(watched.asked) == asked + 5


def test_rollup_and_service_levels_know_it(make: Callable[..., Pipeline], watched: WatchList) -> None:
    """The hour has its hit rate, and a level of its own for messages without its key."""
    assert watched.known
    pipeline = make()
    pipeline.produce(messages(20) + [message(n) for n in range(480)])
    run_tasks(pipeline)
    hour = hour_of(datetime.now(UTC))
    with pipeline.resources() as r:
        hours = [Rollups(r.maintenance).roll_up(hour - timedelta(hours=1)), Rollups(r.maintenance).roll_up(hour)]
        rollup = max(hours, key=lambda one: one.messages)
        breaches = find_breaches(rollup, r.settings.service_levels, r.settings.max_keyless_shares)
    assert rollup.hit_rates["watch"] == {"memory": 0.0, "postgres": 0.0, "all": 0.0}
    [breach] = [one for one in breaches if one.level == "keyless-watch"]
    assert str(breach) == "96.0% of the messages without `session_id`, 95.0% at most wanted"


def test_settings_are_read_and_checked(watched: WatchList, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its prefix, the errors by their variable; a batch's fingerprint depends on them."""
    assert watched.known
    before = load().fingerprint
    monkeypatch.setenv("WATCH_CACHE_SIZE", "7")
    assert load().enrichers["watch"].cache_size == 7
    assert load().fingerprint != before
    monkeypatch.setenv("WATCH_CACHE_SIZE", "none")
    with pytest.raises(SettingsError, match="WATCH_CACHE_SIZE='none'"):
        load()


def test_airflow_has_its_tasks(watched: WatchList) -> None:
    """A task beside the others, behind the drain and before those that read it, and two in the eviction."""
    assert watched.known
    dags = DagBag(dag_folder=str(REPOSITORY / "dags")).dags
    live = dags["stacklens_enrichment"]
    task = live.get_task("batch.watch")
    assert (task.upstream_task_ids, task.downstream_task_ids) == (
        {"batch.drain"}, {"batch.business", "batch.publish"},
    )  # fmt: skip
    assert (task.task_display_name, task.doc_md) == ("watch: watch by session", WATCH.doc)
    assert live.get_task("batch.business").upstream_task_ids >= {"batch.geo", "batch.user", "batch.watch"}
    assert {"evict_watch", "renew_watch"} <= set(dags["stacklens_cache_eviction"].task_dict)


def test_check_tells_what_was_published_before_it_was_declared(make: Callable[..., Pipeline]) -> None:
    """Messages without its columns are older, up to the first one of their partition that has them; after that they are
    altered. Unless older ones are allowed for, all are."""
    pipeline = make()

    def found() -> ConservationReport:
        ranges = log_ranges(pipeline.bootstrap_servers, pipeline.input_topic)
        topics = load().kafka
        return check(
            pipeline.bootstrap_servers, topics.input_topic, topics.output_topic, topics.dlq_topic, ranges,
            allow_older=True,
        )  # fmt: skip

    def publish(run_id: str) -> None:
        pipeline.produce(messages(20))
        publish_all(pipeline, run_id)

    with declared(*ENRICHERS):
        publish("before")
    publish("declared")
    report = found()
    assert (report.ok, report.older, report.analytics) == (True, {"watch": 20}, 40)
    assert "published before watch was declared, so without its columns: 20" in report.summary()
    assert pipeline.check().defects == {Defect.ALTERED: 20}
    with declared(*ENRICHERS):
        publish("lost")
    report = found()
    assert (report.ok, report.defects, report.older) == (False, {Defect.ALTERED: 20}, {"watch": 20})
    assert "without the columns of watch" in report.summary()


def test_batch_that_was_drained_before_it_was_declared_is_refused(make: Callable[..., Pipeline]) -> None:
    """It has neither the new key nor the new answers: it says so, and is drained again."""
    pipeline = make()
    pipeline.produce(messages(20))
    with declared(*ENRICHERS):
        [batch] = pipeline.claim()
        drained = pipeline.stage(batch)
    with pytest.raises(StagingMissing, match="watch"):
        pipeline.publish(drained)
    with pipeline.resources() as r, pytest.raises(StagingMissing, match="session_id"):
        stages.look_up(r, WATCH, batch)
    assert pipeline.finish(pipeline.stage(batch)).counts.total == 20
    expect_conserved(pipeline)


def test_dead_letters_and_headers_are_what_they_were(make: Callable[..., Pipeline], watched: WatchList) -> None:
    """What the fourth enrichment adds is in the values of enriched messages, and nowhere else."""
    assert watched.known
    pipeline = make()
    pipeline.produce([b"no JSON", *messages(3)])
    publish_all(pipeline, "run")
    topic, servers = pipeline.environment["KAFKA_DLQ_TOPIC"], pipeline.bootstrap_servers
    with closing(read(servers, topic, log_ranges(servers, topic))) as letters:
        [letter] = [json.loads(one.value() or b"") for one in letters]
    assert not any(name.startswith("watch") for name in letter)
    assert {name for one in outputs(pipeline) for name, _ in headers_of(one)} == {"stacklens-origin"}
