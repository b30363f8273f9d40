"""Odd messages on the real Kafka, whatever they hold: each comes out once, as it came, and the check is quiet about it.

Each alarm of the check would be a real fault, in the pipeline or in the check.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message

from enrichment.batch import RedriveFilter
from enrichment.codec.records import Header
from enrichment.conservation.committed import log_ranges, position, read
from enrichment.conservation.fingerprint import labels_of
from enrichment.conservation.origins import origin_of
from enrichment.conservation.report import Defect
from enrichment.dead_letters import redrive
from enrichment.dead_letters.reader import Verdict, judge
from enrichment.dead_letters.reasons import all_reasons
from enrichment.kafka.source import read_ranges
from enrichment.kafka.topic_limits import TopicLimits
from enrichment.messages import HEADER_OWN, HEADER_REVISION
from enrichment.replay import report
from enrichment.settings import load
from tests.fixtures.kafka import MakeTopic
from tests.fixtures.odd import TIME, Odd, odd_messages, own_headers, send_at, send_odd, shared_lines
from tests.fixtures.origins import former_origin, origin_header
from tests.fixtures.pipeline import PARTITIONS, MakePipeline, Pipeline, message
from tests.fixtures.replayer import HOUR, START, Replayer

SHARED = Path(__file__).parents[3] / "shared" / "cases"
ANY_SHARE = {"ENRICHMENT_MAX_DEAD_LETTER_SHARE": "1"}
MOST = 10**6


def run_live(pipeline: Pipeline, messages: list[Odd]) -> None:
    """Send them and publish them."""
    send_odd(pipeline.bootstrap_servers, pipeline.input_topic, messages)
    pipeline.run()


def wanted(pipeline: Pipeline, max_letter_bytes: int = 2 * MOST) -> RedriveFilter:
    """All letters, whatever their reason."""
    return RedriveFilter(pipeline.input_topic, all_reasons(), max_attempts=10**9, max_letter_bytes=max_letter_bytes)


def redrive_all(pipeline: Pipeline, run_id: str = "again") -> redrive.Survey:
    """Send every letter in again that can be; what was seen."""
    with pipeline.resources() as r:
        batches, survey = redrive.claim(
            r.clients, r.ledger, r.settings, wanted(pipeline, redrive.max_letter_bytes(r.clients)),
            dag_id="redrive", run_id=run_id, max_letters=1_000, dry_run=False,
        )  # fmt: skip
    for batch in batches:
        pipeline.finish(pipeline.stage(batch))
    return survey


def messages_of(pipeline: Pipeline, topic: str) -> list[Message]:
    """All that a topic holds."""
    ranges = log_ranges(pipeline.bootstrap_servers, topic, settle_seconds=10)
    with closing(read(pipeline.bootstrap_servers, topic, ranges)) as found:
        return list(found)


def outputs_of(pipeline: Pipeline) -> dict[tuple[int, int], Message]:
    """Each enriched message and dead letter, by partition and offset of its input."""
    kafka = load().kafka
    found = {}
    for topic in (kafka.output_topic, kafka.dlq_topic):
        for output in messages_of(pipeline, topic):
            origin = origin_of(output)
            assert origin is not None
            found[origin.partition, origin.offset] = output
    return found


def headers_of(headers: Any) -> list[Header]:
    """A message's headers as the client gives them."""
    return list(headers or [])


def check(pipeline: Pipeline, read_messages: int) -> None:
    """The check holds."""
    report = pipeline.check()
    assert report.ok, report.summary()
    assert report.read == read_messages


def letters_of(pipeline: Pipeline) -> list[dict[str, Any]]:
    """What the dead letters say."""
    return [json.loads(letter.value() or b"") for letter in messages_of(pipeline, load().kafka.dlq_topic)]


def replay_window(replayer: Replayer, hour: int, **how: Any) -> dict[str, Any]:
    """Replay a window; what the report says once all that was published can be read."""
    planned, batches = replayer.plan(hour, **how)
    for batch in batches:
        replayer.run(batch)
    for topic in (planned.purpose.output_topic, planned.purpose.dlq_topic):
        log_ranges(replayer.pipeline.bootstrap_servers, topic, settle_seconds=10)
    with replayer.pipeline.resources() as r:
        return report.report(r.clients, r.ledger, r.replays, planned.purpose)


@pytest.mark.parametrize("seed", [1, 2])
def test_any_message_comes_out_as_it_came(make_replayer: Callable[..., Replayer], seed: int) -> None:
    """Published, sent in again from its letter, replayed: no alarm, and no letter that a redrive does not know."""
    replayer = make_replayer(KAFKA_BATCH_SIZE="1000", **ANY_SHARE)
    pipeline, count = replayer.pipeline, 400
    run_live(pipeline, list(odd_messages(seed, count)))
    check(pipeline, count)
    survey = redrive_all(pipeline)
    assert not [group for group in survey.groups if "no dead letter" in group.why]
    assert survey.chosen > count / 10
    check(pipeline, count)
    again = redrive_all(pipeline, "third")
    assert (again.already_redriven, again.chosen) == (survey.chosen, survey.chosen)
    check(pipeline, count)
    hours = (TIME - START) // HOUR
    said = replay_window(replayer, hours)
    assert said["selected"] > count / 10
    assert said["differences"]["replayed"] == said["differences"]["same"] == said["selected"]
    report = replayer.check(hours)
    assert report.ok, report.summary()


def test_times_are_those_of_the_messages(make_pipeline: MakePipeline) -> None:
    """No timestamp stays none, in both topics; 0, which the client cannot say, is a millisecond off."""
    pipeline = make_pipeline(**ANY_SHARE)
    times = [-1, TIME, -5, 1]
    run_live(pipeline, [Odd(value, timestamp=at) for value in (message(1), b"no JSON") for at in times])
    for value in (message(2), b"no JSON"):
        send_at(pipeline.bootstrap_servers, pipeline.input_topic, 0, value)
    pipeline.run("second")
    check(pipeline, 10)
    inputs = {position(m): m.timestamp()[1] for m in messages_of(pipeline, pipeline.input_topic)}
    assert sorted(inputs.values()) == sorted([*times, *times, 0, 0])
    assert {place: m.timestamp()[1] for place, m in outputs_of(pipeline).items()} == {
        place: at or 1 for place, at in inputs.items()
    }
    said = sorted(
        (letter["source_timestamp"] is None, letter["source_timestamp"] or 0) for letter in letters_of(pipeline)
    )
    assert said == [(False, -5), (False, 0), (False, 1), (False, TIME), (True, 0)]
    redrive_all(pipeline)
    check(pipeline, 10)


def appending(topic: MakeTopic, *names: str) -> dict[str, str]:
    """Topics in which the broker's time stands, by the names of their settings."""
    config = {"message_timestamp_type": "LogAppendTime", "max_message_bytes": "4194304"}
    made = {name: topic(name.lower().replace("_", "-"), partitions=PARTITIONS, **config) for name in names}
    if "KAFKA_DLQ_TOPIC" in made:
        topic(f"{made['KAFKA_DLQ_TOPIC']}-redriven", partitions=2, unique=False, cleanup_policy="compact")
    return made


def test_topics_with_the_brokers_times_are_no_defect(make_pipeline: MakePipeline, topic: MakeTopic) -> None:
    """Where outputs are stamped when they are appended, everything else of them is still compared."""
    topics = appending(topic, "KAFKA_OUTPUT_TOPIC", "KAFKA_DLQ_TOPIC")
    pipeline = make_pipeline(**topics, **ANY_SHARE)
    run_live(pipeline, list(odd_messages(3, 80)))
    check(pipeline, 80)
    redrive_all(pipeline)
    check(pipeline, 80)
    output, servers = topics["KAFKA_OUTPUT_TOPIC"], pipeline.bootstrap_servers
    values = {headers_of(m.headers())[-1]: m.value() for m in messages_of(pipeline, output)}
    send_odd(servers, pipeline.input_topic, [Odd(message(1))])
    [offset] = [r.end - 1 for r in log_ranges(servers, pipeline.input_topic) if r.partition == 0]
    origin = origin_header(pipeline.input_topic, 0, "by hand", offset)
    send_odd(servers, output, [Odd(next(iter(values.values())), b"another key", TIME, [("h", b"1"), origin])])
    report = pipeline.check()
    assert report.defects == {Defect.ALTERED: 1}
    assert "differs in key, headers, content" in report.summary()


def test_replay_finds_stored_errors_in_topics_with_the_brokers_times(
    make_replayer: Callable[..., Replayer], topic: MakeTopic
) -> None:
    """The filter of errors and the report go by what outputs say of their origin, not by when they were appended; a
    window is checked by what its batches are called."""
    names = ("KAFKA_OUTPUT_TOPIC", "KAFKA_DLQ_TOPIC", "REPLAY_OUTPUT_TOPIC", "REPLAY_DLQ_TOPIC")
    replayer = make_replayer(KAFKA_BATCH_SIZE="1000", **appending(topic, *names), **ANY_SHARE)
    bad = {n for n in range(120) if n % 3 == 0}
    # The second hour lies in the future of the broker's time, but for the check of the broker itself.
    replayer.produce(
        [START + (n >= 60) * HOUR + n for n in range(120)],
        lambda n: message(n, source_ip="no address" if n in bad else "8.8.8.8") if n % 10 else b"no JSON",
    )
    replayer.pipeline.run()
    check(replayer.pipeline, 120)
    said = replay_window(replayer, 0, errors=("invalid-ip",), replay_id="errors")
    assert said["selected"] == len([n for n in bad if n < 60 and n % 10])
    assert said["differences"]["same"] == said["selected"] > 0
    said = replay_window(replayer, 0)
    replay_window(replayer, 1)
    assert (said["selected"], said["differences"]["replayed"], said["differences"]["same"]) == (60, 60, 60)
    for hours in (1, 2):
        report = replayer.check(0, hours)
        assert report.ok, report.summary()
        assert report.read == 60 * hours
    assert replayer.check(0, 1, replay_id="errors").defects == {Defect.MISSING: 60 - len(bad & set(range(60))) + 2}


HEADERS: list[list[Header]] = [
    [("stacklens-revision", b"5")],
    [("stacklens-revision", b"1" * 5_000)],
    [("stacklens-replay-id", b"x")],
    [("stacklens-attempts", b"1"), ("stacklens-letter-topic", b"analytics-dlq"),
     ("stacklens-letter-partition", b"0"), ("stacklens-letter-offset", b"0")],
    [("stacklens-own-headers", b"0")],
    [origin_header("t", 0, "b", 0)],
    former_origin("t", 0, "b", 0),
]  # fmt: skip


def shared_headers() -> list[list[Header]]:
    """Those that failed in trials, where the folder is."""
    path = SHARED / "10-headers.json"
    return own_headers(path.read_text()) if path.exists() else []


def test_own_headers_may_have_any_name(make_pipeline: MakePipeline) -> None:
    """They are kept, and what stands behind them says that they are not the pipeline's."""
    pipeline = make_pipeline(**ANY_SHARE)
    cases = HEADERS + shared_headers()
    run_live(pipeline, [Odd(value, headers=own) for own in cases for value in (message(1), b"no JSON")])
    check(pipeline, 2 * len(cases))
    inputs = {position(m): m.headers() for m in messages_of(pipeline, pipeline.input_topic)}
    for place, output in outputs_of(pipeline).items():
        own, found = headers_of(inputs[place]), headers_of(output.headers())
        assert found[: len(own)] == own
        assert found[len(own)] == (HEADER_OWN, b"%d" % len(own))
        assert found[-2] == (HEADER_REVISION, b"1")
    redrive_all(pipeline)
    check(pipeline, 2 * len(cases))


def test_more_headers_than_the_client_reads_are_not_lost_in_silence(make_pipeline: MakePipeline) -> None:
    """A message with 100,001 headers becomes a dead letter that says so; one that leaves room for ours is published."""
    pipeline = make_pipeline(**ANY_SHARE)
    many: list[list[Header]] = [[("h", None)] * count for count in (100_001, 100_000, 99_000)]
    run_live(pipeline, [Odd(message(n), headers=own) for n, own in enumerate(many)])
    check(pipeline, 3)
    said = [
        (letter["error_reason"], letter["omitted"], letter["original_truncated"]) for letter in letters_of(pipeline)
    ]
    assert said == [("unreadable-headers", ["headers"], False)] * 2
    [published] = messages_of(pipeline, load().kafka.output_topic)
    assert len(published.headers() or []) == 99_001
    survey = redrive_all(pipeline)
    assert {group.why for group in survey.groups} == {"key or headers of the message were too large to be kept"}


@pytest.mark.parametrize("part", ["key", "headers", "value"])
def test_letter_of_three_megabytes_says_what_is_whole(make_pipeline: MakePipeline, part: str) -> None:
    """A value that is whole is not called cut because a key or a header was omitted."""
    pipeline = make_pipeline(KAFKA_MAX_MESSAGE_BYTES="2000000", **ANY_SHARE)
    parts: dict[str, dict[str, Any]] = {
        "key": {"key": b"k" * 3_000_000}, "headers": {"headers": [("h", b"v" * 3_000_000)]},
        "value": {"value": message(1, message="m" * 3_000_000)},
    }  # fmt: skip
    run_live(pipeline, [Odd(**({"value": message(1)} | parts[part]))])
    check(pipeline, 1)
    [letter] = letters_of(pipeline)
    assert letter["error_reason"] == "message-too-large"
    assert letter["original_truncated"] is (part == "value")
    assert letter.get("omitted", []) == ([] if part == "value" else [part])
    assert redrive_all(pipeline).chosen == 0


def test_messages_that_failed_in_trials_cause_no_alarm(make_pipeline: MakePipeline) -> None:
    """Half surrogate pairs, numbers beyond doubles, a key twice."""
    paths = [SHARED / name for name in ("conservation_false_alarm.jsonl", "11-json.jsonl")]
    if not all(path.exists() for path in paths):
        pytest.skip(f"no {SHARED}")
    pipeline = make_pipeline(**ANY_SHARE)
    values = [line for path in paths for line in shared_lines(path.read_text())]
    run_live(pipeline, [Odd(value) for value in values])
    check(pipeline, len(values))
    reasons = sorted(letter["error_reason"] for letter in letters_of(pipeline))
    assert reasons == ["invalid-json", "invalid-json", "wrong-type", "wrong-type"]
    details = [one["error_detail"] for one in letters_of(pipeline) if one["error_reason"] == "invalid-json"]
    assert all("surrogate pair" in detail for detail in details)


FOREIGN: dict[str, Any] = {
    "source_partition": [2**31, -1, 2**63, 10**400, 1.5, "0", None, True, []],
    "source_offset": [-1, 2**63, 10**400, 0.5, None],
    "source_timestamp": [2**63, -(2**63) - 1, "now", 1e300],
    "attempts": [-1, 0, 10**400, None],
    "error_reason": ["x" * 1_000_000, "\0", "", None],
    "error_detail": ["\0" * 1_000_000, 5],
    "sent_to_dlq_at": ["x" * 1_000_000, "\0", None],
    "original_encoding": ["latin-1", "base64", "null", None],
    "original_size_bytes": [-1, 10**400],
    "batch_id": ["b" * 1_000_000],
    "source_key_encoding": ["base64", None],
    "purpose": ["\0", 5],
    "omitted": [[], ["nose"], 5],
}


def test_letters_of_foreign_writers_fail_no_redrive(make_pipeline: MakePipeline) -> None:
    """Whatever somebody writes into the dead letters' topic: it is counted, described and passed over, and letters of
    our own are sent in again beside it."""
    pipeline = make_pipeline(ENRICHMENT_REQUIRED_SOURCES="business-context", **ANY_SHARE)
    run_live(pipeline, [Odd(message(n, request_id=f"nobody-{n}")) for n in range(8)])
    dlq = load().kafka.dlq_topic
    [template, *_] = letters_of(pipeline)
    path = SHARED / "15-letter.json"
    foreign = [json.loads(path.read_text())] if path.exists() else []
    # Not asked for, or wrong: by their source, none is to be sent in.
    foreign += [
        template | {"error_reason": "elsewhere", name: value} for name, values in FOREIGN.items() for value in values
    ]
    foreign += [
        {name: value for name, value in template.items() if name != left} for left in template if left != "purpose"
    ]
    sent = [Odd(json.dumps(letter).encode()) for letter in foreign]
    send_odd(pipeline.bootstrap_servers, dlq, [*sent, Odd(None), Odd(b"{}"), Odd(b"\xff"), Odd(b"[" * 10_000)])
    send_odd(pipeline.bootstrap_servers, dlq, [Odd(sent[0].value, headers=[("h", None)] * 100_001)])
    marks = [Odd(b"x", key) for key in (b"", b"x", b"1", b"1:", b"-1:5", b"1" * 5_000 + b":1", b"\xff:1", b"1:1:1")]
    send_odd(pipeline.bootstrap_servers, f"{dlq}-redriven", marks, 2)
    survey = redrive_all(pipeline)
    assert (survey.scanned, survey.chosen) == (8 + len(sent) + 5, 8)
    manifest = json.dumps(survey.to_manifest())
    assert "\\u0000" not in manifest
    assert len(manifest) < 300_000
    check(pipeline, 8)
    with pipeline.resources() as r:
        ranges = log_ranges(pipeline.bootstrap_servers, dlq)
        judged = [one for chunk in read_ranges(r.clients, dlq, ranges) for one in judge(chunk, wanted(pipeline), set())]
    assert all("no dead letter" in one.why for one in judged if one.letter is None)
    assert sum(one.verdict is Verdict.REDRIVE for one in judged) >= 8


@pytest.mark.parametrize("by", ["tombstone", "tombstone of a letter that was not sent in again"])
def test_tombstones_of_foreign_writers_undo_no_marker(make_pipeline: MakePipeline, by: str) -> None:
    """A redrive and the check take the same letters for sent in again, whatever tombstones stand beside the markers."""
    pipeline = make_pipeline(ENRICHMENT_REQUIRED_SOURCES="business-context", **ANY_SHARE)
    run_live(pipeline, [Odd(message(n, request_id=f"nobody-{n}")) for n in range(8)])
    if by == "tombstone":
        redrive_all(pipeline, "first")
    marks = [Odd(None, b"%d:0" % partition) for partition in range(PARTITIONS)]
    send_odd(pipeline.bootstrap_servers, load().kafka.redriven_topic, marks, 2)
    check(pipeline, 8)
    assert redrive_all(pipeline).chosen == 8
    check(pipeline, 8)


def test_replayed_letter_counts_for_the_window_of_its_message(
    make_replayer: Callable[..., Replayer], topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its topic refuses it, a letter has the time at which it was set aside: that is no time of its message."""
    monkeypatch.setattr("enrichment.kafka.sink.limits_of", lambda topic, _, max_bytes: TopicLimits(topic, max_bytes))
    compacted = {
        name: topic("replay", PARTITIONS, cleanup_policy="compact")
        for name in ("REPLAY_OUTPUT_TOPIC", "REPLAY_DLQ_TOPIC")
    }
    replayer = make_replayer(KAFKA_BATCH_SIZE="1000", **compacted)
    now = int(time.time() * 1000)
    odd = [Odd(message(n), None if n % 3 else b"k", at) for n in range(6) for at in (START, now)]
    send_odd(replayer.pipeline.bootstrap_servers, replayer.pipeline.input_topic, odd)
    hours = 0, (now - START) // HOUR
    for hour in hours:
        replay_window(replayer, hour)
    for hour in hours:
        report = replayer.check(hour)
        assert report.ok, report.summary()
        assert (report.read, report.dead) == (6, 4)


def test_filters_of_a_replay_and_of_its_check_are_the_same(make_replayer: Callable[..., Replayer]) -> None:
    """A label that is a number, however large, is none, and the other one counts."""
    replayer = make_replayer(KAFKA_BATCH_SIZE="1000", **ANY_SHARE)
    levels = [b"1e400", b"9" * 5_000, b"1", b'"info"', b"{}"]
    values = [message(1)[:-1] + b',"level":' + level + b"}" for level in levels]
    send_odd(
        replayer.pipeline.bootstrap_servers, replayer.pipeline.input_topic,
        [Odd(value, timestamp=START) for value in values],
    )  # fmt: skip
    said = replay_window(replayer, 0, services=("payment-service",))
    assert said["selected"] == len(levels)
    report = replayer.check(0, wanted=lambda m: labels_of(m.value() or b"").get("service") == "payment-service")
    assert report.ok, report.summary()
