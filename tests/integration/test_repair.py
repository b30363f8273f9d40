"""Partial messages are corrected once their source is back: only what is missing, and what cannot be is said."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psycopg
import pytest
from airflow.sdk import Context
from airflow.sdk.execution_time.context import set_current_context
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from enrichment.batch import Batch
from enrichment.batches.publish import utc_now
from enrichment.codec.headers import FORMER_ORIGIN
from enrichment.errors import RunRefused
from enrichment.messages import HEADER_ORIGIN, HEADER_REVISION
from enrichment.orchestration import repair as tasks
from enrichment.repair import passes as repair
from enrichment.repair.pending import PendingState
from tests.fixtures.origins import publish_as_before, said_origin
from tests.fixtures.partials import (
    MESSAGES,
    QUICK,
    corrected_once,
    headers_of,
    outputs,
    planned,
    publish_all,
    repair_all,
    run,
    states,
    value,
    versions,
)
from tests.fixtures.pipeline import PARTITIONS, MakePipeline, Pipeline, message
from tests.fixtures.user_service import UserService


def test_correction_is_the_message_that_a_service_in_health_would_have_given(quick: Pipeline, partial: Batch) -> None:
    """The same key, timestamp, order and headers, one revision higher; all additions, the risk included, are those of
    the same message published without an outage; and the batch is not pending any more."""
    one = planned(quick, partial)
    assert one is not None
    assert run(quick, one) == (True, {"user-profile": PendingState.REPAIRED})
    corrected_once(quick, partial)
    healthy = {
        value(m)["message"]: value(m) for m in outputs(quick) if said_origin(headers_of(m)).batch_id == "dag/after/0"
    }
    seen = 0
    for first, second in versions(quick, partial).values():
        assert (second.key(), second.timestamp()) == (first.key(), first.timestamp())
        headers, before = headers_of(second), headers_of(first)
        assert headers == [*before[:-1], (HEADER_REVISION, b"2"), before[-1]]
        now, then = value(second), value(first)
        assert "user-service-error" in then["enrichment_errors"]
        assert "user-service-error" not in (now["enrichment_errors"] or ())
        assert now["enriched_at"] > then["enriched_at"]
        assert list(now) == list(then)
        expected = healthy.get(now["message"])
        if expected is not None:
            seen += 1
            assert now == expected | {"enriched_at": now["enriched_at"]}
    assert seen == 40
    assert states(quick) == [("user-profile", "repaired", MESSAGES, MESSAGES, 0)]
    assert planned(quick, partial) is None


def test_message_whose_user_is_a_number_is_corrected(quick: Pipeline, user_service: UserService) -> None:
    """The number is looked up as it is written, at first and again, and stays one in the message."""
    user_service.set_fault(status=503)
    quick.produce([message(n, user_id=n) for n in range(8)])
    [batch] = publish_all(quick, "down")
    user_service.end_fault()
    assert repair_all(quick, batch) == [True]
    corrected_once(quick, batch, 8)
    corrected = [value(second) for _, second in versions(quick, batch).values()]
    assert sorted(one["user_id"] for one in corrected) == list(range(8))
    assert all(one["enrichment_errors"] == ["user-not-found"] for one in corrected)


def test_what_an_earlier_version_has_published_is_corrected(
    quick: Pipeline, user_service: UserService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its messages are known by the former origin; corrections say theirs in one header, as all else does now."""
    user_service.set_fault(status=503)
    quick.produce([message(n) for n in range(8)])
    with monkeypatch.context() as before:
        publish_as_before(before)
        [batch] = publish_all(quick, "down")
    user_service.end_fault()
    assert repair_all(quick, batch) == [True]
    report = quick.check()
    assert report.ok, report.summary()
    assert report.corrections == 8
    assert sorted(headers_of(one)[-1][0] for one in outputs(quick)) == [HEADER_ORIGIN] * 8 + [FORMER_ORIGIN[-1]] * 8


def test_corrections_keep_the_order_of_their_messages(quick: Pipeline, partial: Batch) -> None:
    """In each partition the corrections stand in the order of the first versions."""
    repair_all(quick, partial)
    order: dict[tuple[int, bool], list[int]] = {}
    for one in outputs(quick):
        origin = said_origin(headers_of(one))
        if origin.batch_id == partial.batch_id:
            which = (one.partition() or 0, HEADER_REVISION in dict(headers_of(one)))
            order.setdefault(which, []).append(origin.offset)
    assert len(order) == 2 * PARTITIONS
    assert all(order[p, True] == order[p, False] == sorted(order[p, True]) for p in range(PARTITIONS))


def test_messages_of_other_batches_between_are_left_alone(quick: Pipeline, user_service: UserService) -> None:
    """A place may hold what others published meanwhile, partial too: each batch is repaired on its own, once."""
    batches = []
    user_service.set_fault(status=503)
    for run_id in ("one", "two"):
        quick.produce([message(n) for n in range(40)])
        batches += publish_all(quick, run_id)
    user_service.end_fault()
    with psycopg.connect(quick.dsn) as connection:
        connection.execute(
            """WITH ends AS (
                SELECT r -> 'partition' AS partition, max((r ->> 'end')::bigint) AS last
                FROM enrichment_publications, jsonb_array_elements(ranges) AS r GROUP BY 1
            )
            UPDATE enrichment_publications SET ranges = (
                SELECT jsonb_agg(jsonb_build_object('partition', partition, 'start', 0, 'end', last)) FROM ends
            )"""
        )
    assert repair_all(quick, batches[0]) == [True]
    assert {len(v) for v in versions(quick, batches[1]).values()} == {1}
    assert repair_all(quick, batches[1]) == [True]
    for batch in batches:
        assert [len(v) for v in versions(quick, batch).values()] == [2] * 40
    report = quick.check()
    assert report.ok, report.summary()


def test_only_what_is_missing_is_asked_for(quick: Pipeline, partial: Batch, user_service: UserService) -> None:
    """The keys of the missing source are asked once each, in bulk; place and context are the message's own, even where
    their sources would answer something else by now."""
    with psycopg.connect(quick.dsn) as connection:
        connection.execute("TRUNCATE user_profile_cache, business_context_cache, geo_ip_cache")
        connection.execute("UPDATE demo_requests SET unit = 'another'")
    before = user_service.stats()
    repair_all(quick, partial)
    after = user_service.stats()
    assert after["requests"] - before["requests"] <= MESSAGES // 50
    for first, second in versions(quick, partial).values():
        own = {n: v for n, v in value(first).items() if n.startswith(("geo_", "business_unit", "business_amount"))}
        assert {n: value(second)[n] for n in own} == own


def test_permanent_errors_are_no_reason_for_a_correction(quick: Pipeline, user_service: UserService) -> None:
    """What the source says of a key is an answer: a user that does not exist is named so in the correction, and a
    message with nothing but permanent errors has none."""
    user_service.set_fault(status=503)
    quick.produce([message(n, user_id="nobody", source_ip="not-an-address") for n in range(8)])
    quick.produce([message(n, user_id=None, request_id="req-unknown") for n in range(8)])
    [batch] = publish_all(quick, "down")
    user_service.end_fault()
    repair_all(quick, batch)
    found = versions(quick, batch)
    assert sorted(len(v) for v in found.values()) == [1] * 8 + [2] * 8
    errors = {tuple(value(v[-1])["enrichment_errors"]) for v in found.values()}
    assert errors == {("invalid-ip", "user-not-found"), ("business-context-not-found",)}
    report = quick.check()
    assert report.ok, report.summary()


def test_source_that_is_still_down_leaves_the_batch_pending(
    quick: Pipeline, partial: Batch, user_service: UserService
) -> None:
    """Nothing is published, the attempt is counted, the next one waits, and one look is all that it costs."""
    user_service.set_fault(status=503)
    with psycopg.connect(quick.dsn) as connection:
        connection.execute("TRUNCATE user_profile_cache")
    one = planned(quick, partial)
    assert one is not None
    before = user_service.stats()["requests"]
    assert run(quick, one) == (False, {"user-profile": PendingState.OPEN})
    assert user_service.stats()["requests"] - before == 1
    assert states(quick) == [("user-profile", "open", MESSAGES, 0, 1)]
    with quick.resources() as r:
        assert r.pending.due() == []
    user_service.end_fault()
    repair_all(quick, partial)
    corrected_once(quick, partial)


def test_attempts_are_bounded(make_pipeline: MakePipeline, user_service: UserService) -> None:
    """After the last attempt the repair is given up, and says so; a person may open it again."""
    pipeline = make_pipeline(**QUICK, ENRICHMENT_REPAIR_ATTEMPTS="2")
    user_service.set_fault(status=503)
    pipeline.produce([message(n) for n in range(20)])
    [batch] = publish_all(pipeline, "down")
    for state in (PendingState.OPEN, PendingState.GIVEN_UP):
        one = planned(pipeline, batch)
        assert one is not None
        left = run(pipeline, one)[1]
        assert left == {"user-profile": state}
        assert repair.to_be_told(one, left) == ({} if state is PendingState.OPEN else left)
    assert planned(pipeline, batch) is None
    user_service.end_fault()
    with psycopg.connect(pipeline.dsn) as connection:
        connection.execute("UPDATE enrichment_pending SET state = 'open', attempts = 0")
    assert repair_all(pipeline, batch) == [True]


def test_users_that_fail_again_stay_pending_and_are_corrected_later(
    quick: Pipeline, partial: Batch, user_service: UserService
) -> None:
    """What is answered is corrected at once; the rest by a later pass, and nothing is corrected twice."""
    user_service.set_fault(status=503, user_ids=["user-7"])
    with psycopg.connect(quick.dsn) as connection:
        connection.execute("DELETE FROM user_profile_cache WHERE user_id = 'user-7'")
    # One user by request, so that the one that fails costs nobody else.
    os.environ["USER_SERVICE_BATCH_SIZE"] = "1"
    try:
        one = planned(quick, partial)
        assert one is not None
        assert run(quick, one) == (True, {"user-profile": PendingState.OPEN})
        assert {len(v) for v in versions(quick, partial).values()} == {1, 2}
        user_service.end_fault()
        assert repair_all(quick, partial) == [True]
    finally:
        del os.environ["USER_SERVICE_BATCH_SIZE"]
    corrected_once(quick, partial)
    assert states(quick) == [("user-profile", "repaired", MESSAGES, MESSAGES, 1)]


@pytest.fixture
def few(make_pipeline: MakePipeline, user_service: UserService) -> tuple[Pipeline, Batch]:
    """A batch for two users of which the service, in health otherwise, failed: one in the first chunk, one in the
    last; every user is asked for by a request of its own."""
    pipeline = make_pipeline(**QUICK, USER_SERVICE_BATCH_SIZE="1")
    user_service.set_fault(status=503, user_ids=["user-2", "user-late"])
    pipeline.produce([message(n) for n in range(50)] + [message(50 + n, user_id="user-3") for n in range(149)])
    pipeline.produce([message(199, user_id="user-late")])
    [batch] = publish_all(pipeline, "few")
    user_service.end_fault()
    return pipeline, batch


def test_messages_that_few_failures_left_partial_are_corrected(few: tuple[Pipeline, Batch]) -> None:
    """Below the share of an outage, too, what a source failed for is pending, and corrected once it answers."""
    pipeline, batch = few
    with pipeline.resources() as r:
        [missing] = r.pending.due()
    assert (missing.source, missing.messages, missing.down) == ("user-profile", 2, False)
    assert repair_all(pipeline, batch) == [True]
    found = versions(pipeline, batch)
    assert sorted(len(v) for v in found.values()) == [1] * 198 + [2] * 2
    last = [value(v[-1]) for v in found.values()]
    assert not any("user-service-error" in (v["enrichment_errors"] or ()) for v in last)
    report = pipeline.check()
    assert report.ok, report.summary()


def test_key_that_never_gets_an_answer_holds_up_nobody_for_long(
    few: tuple[Pipeline, Batch], user_service: UserService
) -> None:
    """A key at fault does not end the pass: what stands behind it is corrected at once. It has a few attempts, some
    time apart; then it is given up, and no task is red for it."""
    pipeline, batch = few
    user_service.set_fault(status=503, user_ids=["user-2"])
    produced = []
    for _ in range(repair.FEW_ATTEMPTS):
        one = planned(pipeline, batch)
        assert one is not None
        published, left = run(pipeline, one)
        produced.append(published)
        assert repair.to_be_told(one, left) == {}
        with pipeline.resources() as r:
            assert r.pending.due() == []
    assert produced == [True] + [False] * (repair.FEW_ATTEMPTS - 1)
    assert planned(pipeline, batch) is None
    assert states(pipeline) == [("user-profile", "given-up", 2, 1, repair.FEW_ATTEMPTS)]


def test_required_source_that_failed_for_a_few_leaves_nothing_pending(
    make_pipeline: MakePipeline, user_service: UserService
) -> None:
    """Their messages are dead letters, and a redrive's business."""
    pipeline = make_pipeline(**QUICK, USER_SERVICE_BATCH_SIZE="1", ENRICHMENT_REQUIRED_SOURCES="user-profile")
    user_service.set_fault(status=503, user_ids=["user-2"])
    pipeline.produce([message(n) for n in range(1, 9)])
    publish_all(pipeline, "few")
    assert states(pipeline) == []
    assert pipeline.check().dead == 1


def test_two_sources_are_repaired_one_after_the_other(quick: Pipeline, user_service: UserService) -> None:
    """Each source that comes back adds a revision to the latest version; the risk follows from both in the end."""
    user_service.set_fault(status=503)
    quick.produce([message(n, user_id="user-1") for n in range(MESSAGES)])
    with quick.business_down():
        [batch] = publish_all(quick, "down")
        assert [s[0] for s in states(quick)] == ["business-context", "user-profile"]
        user_service.end_fault()
        one = planned(quick, batch)
        assert one is not None
        assert run(quick, one) == (True, {"business-context": PendingState.OPEN, "user-profile": PendingState.REPAIRED})
    assert repair_all(quick, batch) == [True]
    found = versions(quick, batch)
    assert {len(v) for v in found.values()} == {3}
    assert {tuple(dict(m.headers() or []).get(HEADER_REVISION) for m in v) for v in found.values()} == {
        (None, b"2", b"3")
    }
    last = [value(v[-1]) for v in found.values()]
    assert {tuple(v["enrichment_sources"]) for v in last} == {("geo-ip", "user-profile", "business-context")}
    assert all(v["business_risk_score"] is not None and v["enrichment_errors"] is None for v in last)
    report = quick.check()
    assert report.ok, report.summary()
    assert report.corrections == 2 * MESSAGES


def test_geo_database_that_was_broken_is_repaired(
    quick: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A geo database that cannot be read is an outage like any other; a good file ends it."""
    broken = tmp_path / "broken.mmdb"
    broken.write_bytes(b"no database")
    monkeypatch.setenv("GEO_IP_DATABASE_PATH", str(broken))
    quick.produce([message(n, user_id="user-1") for n in range(40)])
    [batch] = publish_all(quick, "down")
    assert states(quick) == [("geo-ip", "open", 40, 0, 0)]
    monkeypatch.delenv("GEO_IP_DATABASE_PATH")
    assert repair_all(quick, batch) == [True]
    corrected_once(quick, batch, 40)
    assert {value(v[-1])["geo_country"] for v in versions(quick, batch).values()} == {"United States"}


def test_one_source_by_hand_leaves_the_other_pending(quick: Pipeline, user_service: UserService) -> None:
    """The form's source: the other one is neither asked nor counted."""
    user_service.set_fault(status=503)
    quick.produce([message(n, user_id="user-1") for n in range(8)])
    with quick.business_down():
        [batch] = publish_all(quick, "down")
    user_service.end_fault()
    one = planned(quick, batch, "user-profile")
    assert one is not None
    assert run(quick, one)[1] == {"user-profile": PendingState.REPAIRED}
    assert states(quick) == [("business-context", "open", 8, 0, 0), ("user-profile", "repaired", 8, 8, 0)]


def test_dry_run_counts_and_publishes_nothing(quick: Pipeline, partial: Batch) -> None:
    """What would be corrected is counted; the batch stays pending, and the real pass is not in its way."""
    one = planned(quick, partial, dry_run=True)
    assert one is not None
    with quick.resources() as r:
        prepared, produced, _ = repair.run(r, one, utc_now)
    assert (prepared.tally.messages, prepared.tally.corrected, produced) == (
        MESSAGES,
        {"user-profile": MESSAGES},
        False,
    )
    assert states(quick) == [("user-profile", "open", MESSAGES, 0, 0)]
    assert quick.check().corrections == 0
    repair_all(quick, partial)
    corrected_once(quick, partial)


def delete_before(pipeline: Pipeline, ends: Sequence[tuple[int, int]]) -> None:
    """Let the analytics topic start later, as retention does."""
    admin = AdminClient({"bootstrap.servers": pipeline.bootstrap_servers})
    wanted = [TopicPartition(pipeline.environment["KAFKA_OUTPUT_TOPIC"], p, end) for p, end in ends]
    for deleted in admin.delete_records(wanted).values():
        deleted.result()


@pytest.mark.parametrize("left", [0, 10])
def test_messages_that_left_the_log_are_lost_loudly(quick: Pipeline, partial: Batch, left: int) -> None:
    """What is still there is corrected; the batch is closed as lost, with how much had gone."""
    one = planned(quick, partial)
    assert one is not None
    delete_before(quick, [(r.partition, r.start + (MESSAGES // PARTITIONS) - left) for r in one.batch.ranges])
    assert run(quick, one) == (left > 0, {"user-profile": PendingState.LOST})
    assert states(quick) == [("user-profile", "lost", MESSAGES, left * PARTITIONS, 0)]
    assert planned(quick, partial) is None


def test_correction_that_is_too_large_is_said_and_never_tried_again(
    quick: Pipeline, user_service: UserService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message whose correction its topic does not take stays partial: all others are corrected, the batch ends in a
    state that says so, and nothing is due; once the topic takes more, a person opens it again, and it is repaired."""
    user_service.set_fault(status=503)
    quick.produce([message(1), message(2, message="m" * 50_000), message(3)])
    [batch] = publish_all(quick, "down")
    user_service.end_fault()
    monkeypatch.setenv("KAFKA_MAX_MESSAGE_BYTES", "50000")
    one = planned(quick, batch)
    assert one is not None
    assert run(quick, one) == (True, {"user-profile": PendingState.UNREPAIRABLE})
    assert sorted(len(v) for v in versions(quick, batch).values()) == [1, 2, 2]
    assert planned(quick, batch) is None
    assert run(quick, one)[0] is False
    where = [batch.batch_id]
    with psycopg.connect(quick.dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT state, corrected, attempts, detail FROM enrichment_pending WHERE batch_id = %s", where
        ).fetchone()
        assert row is not None
        assert row[:3] == ("unrepairable", 2, 0)
        assert "1 corrections are larger than analytics-" in row[3]
        connection.execute("UPDATE enrichment_pending SET state = 'open' WHERE batch_id = %s", where)
    monkeypatch.delenv("KAFKA_MAX_MESSAGE_BYTES")
    assert repair_all(quick, batch) == [True]
    corrected = [v[-1] for v in versions(quick, batch).values()]
    assert all("user-service-error" not in (value(m)["enrichment_errors"] or ()) for m in corrected)
    report = quick.check()
    assert report.ok, report.summary()


def test_moment_is_the_repairs_own(quick: Pipeline, partial: Batch) -> None:
    """`enriched_at` of a correction is when it was corrected."""
    one = planned(quick, partial)
    assert one is not None
    with quick.resources() as r:
        repair.run(r, one, lambda: datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert {value(v[-1])["enriched_at"] for v in versions(quick, partial).values()} == {"2030-01-02T03:04:05.000Z"}


@pytest.mark.parametrize("is_manual", [True, False], ids=["by hand", "scheduled"])
def test_batch_that_is_not_pending_is_refused_by_name(
    quick: Pipeline, partial: Batch, monkeypatch: pytest.MonkeyPatch, *, is_manual: bool
) -> None:
    """A run that is asked for a batch and does nothing looks as if it had repaired it."""
    monkeypatch.setattr(tasks, "resources", quick.resources)

    def plan(batch_id: str | None, source: str | None = None) -> list[str]:
        params = {"batch_id": batch_id, "source": source, "dry_run": False}
        run_type = "manual" if is_manual else "scheduled"
        with set_current_context(cast(Context, {"params": params, "dag_run": SimpleNamespace(run_type=run_type)})):
            return [one["batch"]["batch_id"] for one in tasks.plan.function()]

    assert len(plan(partial.batch_id)) == 1
    assert plan(None, "geo-ip") == []
    with pytest.raises(RunRefused, match=r"nothing is missing in a published batch 'dag/typo/0': the partial"):
        plan("dag/typo/0")
    with pytest.raises(RunRefused, match=r"nothing of geo-ip is missing in a published batch 'dag/down/0'"):
        plan(partial.batch_id, "geo-ip")
