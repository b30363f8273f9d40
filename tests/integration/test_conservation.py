"""The conservation check against a real broker: it accepts a right run, and finds each way of being wrong."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from enrichment.batch import OffsetRange
from enrichment.conservation import shares
from enrichment.conservation.__main__ import main
from enrichment.conservation.check import check
from enrichment.conservation.report import ConservationReport, Defect
from enrichment.enrichers.registry import REGISTRY
from enrichment.messages import HEADER_REVISION, Reason
from tests.fixtures.kafka import MakeTopic
from tests.fixtures.origins import former_origin, origin_header, said_origin

LOG = b'{"timestamp": "2024-01-15T10:00:00Z", "service": "payment", "level": "info", "message": "%s", "n": [1.0, 2e3]}'
TIME = 1_705_312_800_000
CUT = 5


@dataclass(frozen=True)
class Sent:
    """A message as it is produced."""

    value: bytes | None
    key: bytes | None = b"payment-service"
    timestamp: int = TIME
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int = 0
    aborted: bool = False


# By partition, in order: the offsets are the positions.
INPUTS = {
    0: [
        Sent(LOG % b"first", headers=(("trace", b"1"), ("trace", b"2"), ("null", None))),
        Sent(LOG % 'größer, \\u00e9, \\" and 雪'.encode(), key=None),
        Sent(b"no json at all"),
        Sent(LOG[:-1] % b"reserved" + b', "geo_country": "Atlantis"}', timestamp=TIME + 1),
        Sent(None),
    ],
    1: [
        Sent(LOG % b"second", partition=1),
        Sent(b'{"service": "no level"}', partition=1, key=b"\xff\xfe"),
        Sent(b"\xff\xfe not text", partition=1),
        Sent(b"too large a message to be kept whole", partition=1),
        Sent(LOG % b"third", partition=1, headers=(("schema", b"\x00"),)),
    ],
}


@dataclass
class Run:
    """What a pipeline made of the inputs: the two output topics in order, to be broken by a test."""

    analytics: list[Sent] = field(default_factory=list)
    dead: list[Sent] = field(default_factory=list)


@dataclass(frozen=True)
class Topics:
    """Three topics of one test, the input filled."""

    kafka: str
    input: str
    output: str
    dlq: str

    def publish(self, run: Run) -> None:
        """Produce the run in one transaction; what is to be aborted in another one before."""
        sent = [(self.output, one) for one in run.analytics] + [(self.dlq, one) for one in run.dead]
        for aborted in (True, False):
            chosen = [(topic, one) for topic, one in sent if one.aborted is aborted]
            if chosen:
                transact(self.kafka, chosen, commit=not aborted)

    def check(self, ranges: Sequence[OffsetRange] | None = None, **options: Any) -> ConservationReport:
        """Check all inputs, or some."""
        whole = [OffsetRange(partition, 0, len(sent)) for partition, sent in INPUTS.items()]
        return check(self.kafka, self.input, self.output, self.dlq, ranges or whole, timeout=20, **options)

    def make_run(self) -> Run:
        """The right outputs."""
        run = Run()
        for sent in INPUTS.values():
            for offset, one in enumerate(sent):
                if one.value is not None and b"message" in one.value and one.value.startswith(b"{"):
                    run.analytics.append(enriched(self.input, offset, one))
                else:
                    run.dead.append(dead(self.input, offset, one))
        return run


def transact(kafka: str, sent: Sequence[tuple[str, Sent]], *, commit: bool) -> None:
    """Produce messages in a transaction that is committed or aborted."""
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": uuid.uuid4().hex, "linger.ms": 0})
    producer.list_topics(timeout=30)  # without it the next call often waits for half a second
    producer.init_transactions(30)
    producer.begin_transaction()
    for topic, one in sent:
        send(producer, topic, one)
    producer.flush(30)
    (producer.commit_transaction if commit else producer.abort_transaction)(30)


def send(producer: Producer, topic: str, one: Sent) -> None:
    """Produce a message to the partition that it names."""
    producer.produce(
        topic,
        one.value,
        one.key,
        one.partition,
        timestamp=one.timestamp,
        headers=list(one.headers),
    )


def origin(topic: str, offset: int, one: Sent) -> tuple[tuple[str, bytes | None], ...]:
    """The headers of an output: the input's, then the origin."""
    return (*one.headers, origin_header(topic, one.partition, "b-1", offset))


def enriched(topic: str, offset: int, one: Sent) -> Sent:
    """The message with every column of the output behind its own fields."""
    added: dict[str, Any] = dict.fromkeys(REGISTRY.output_columns)
    added |= {"enrichment_sources": ["geo-ip"], "enrichment_errors": ["user-not-found"] if offset == 0 else None}
    assert one.value is not None
    own = one.value.replace(b', "geo_country": "Atlantis"', b"")
    value = own[:-1] + b"," + json.dumps(added).encode()[1:]
    return replace(one, value=value, headers=origin(topic, offset, one))


def dead(topic: str, offset: int, one: Sent, **changed: Any) -> Sent:
    """The dead letter of a message: as an object, as text, as base64, or as the beginning of a larger one."""
    original, encoding, reason = encode(one.value)
    key, key_encoding = (one.key.decode(), "utf-8") if one.key == b"payment-service" else ("//4=", "base64")
    letter = {
        "original_message": original,
        "original_encoding": encoding,
        "original_size_bytes": len(one.value or b""),
        "original_truncated": reason is Reason.MESSAGE_TOO_LARGE,
        "error_reason": reason,
        "error_detail": None,
        "stage": "decode",
        "source_topic": topic,
        "source_partition": one.partition,
        "source_offset": offset,
        "source_timestamp": one.timestamp,
        "source_key": key,
        "source_key_encoding": key_encoding,
        "batch_id": "b-1",
        "attempts": 1,
        "sent_to_dlq_at": "2024-01-15T10:00:01.000Z",
    }
    return replace(one, value=json.dumps(letter | changed).encode(), headers=origin(topic, offset, one))


def encode(value: bytes | None) -> tuple[Any, str, Reason]:
    """How a dead letter carries a value, and why it is one."""
    if value is None:
        return None, "null", Reason.EMPTY_MESSAGE
    if value.startswith(b"{"):
        return json.loads(value), "json", Reason.MISSING_FIELD
    if value.startswith(b"\xff"):
        return base64.b64encode(value).decode(), "base64", Reason.INVALID_ENCODING
    if value.startswith(b"too large"):
        return value[:CUT].decode(), "utf-8", Reason.MESSAGE_TOO_LARGE
    return value.decode(), "utf-8", Reason.INVALID_JSON


def fill(kafka: str, name: str) -> str:
    """Produce the inputs to a topic and give its name back."""
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True, "linger.ms": 0})
    for sent in INPUTS.values():
        for one in sent:
            send(producer, name, one)
    assert producer.flush(30) == 0
    return name


@pytest.fixture(scope="module")
def filled(kafka: str, topic: MakeTopic) -> str:
    """An input topic of two partitions; nothing more is written to it."""
    return fill(kafka, topic("input", partitions=2))


@pytest.fixture
def topics(kafka: str, topic: MakeTopic, filled: str) -> Topics:
    """The filled input and two outputs of the test's own."""
    return Topics(kafka, filled, topic("output", partitions=2), topic("dlq", partitions=2))


def with_value(run: list[Sent], at: int, old: bytes, new: bytes) -> None:
    """Change the text of an output; `old` must be there."""
    value = run[at].value
    assert value is not None
    assert old in value
    run[at] = replace(run[at], value=value.replace(old, new, 1))


def change(field_name: str, **changed: Any) -> Callable[[Run], None]:
    """Change parts of the first output of a topic."""

    def apply(run: Run) -> None:
        outputs = getattr(run, field_name)
        outputs[0] = replace(outputs[0], **changed)

    return apply


def edit(field_name: str, at: int, old: bytes, new: bytes) -> Callable[[Run], None]:
    """Change the text of one output."""
    return lambda run: with_value(getattr(run, field_name), at, old, new)


def change_header(run: Run) -> None:
    first = run.analytics[0]
    run.analytics[0] = replace(first, headers=(("trace", b"9"), *first.headers[1:]))


def drop_header(run: Run) -> None:
    run.analytics[0] = replace(run.analytics[0], headers=run.analytics[0].headers[1:])


def swap(outputs: Callable[[Run], list[Sent]]) -> Callable[[Run], None]:
    def apply(run: Run) -> None:
        some = outputs(run)
        some[0], some[1] = some[1], some[0]

    return apply


def abort_first(run: Run) -> None:
    run.analytics[0] = replace(run.analytics[0], aborted=True)


def move_dead_to_analytics(run: Run) -> None:
    run.analytics.append(replace(run.dead.pop(0), value=b"{}"))


def correction(first: Sent, revision: int = 2, **changed: Any) -> Sent:
    """A further version of an enriched message."""
    headers = (*first.headers[:-1], (HEADER_REVISION, b"%d" % revision), first.headers[-1])
    value = (
        (first.value or b"").replace(b'["user-not-found"]', b"null").replace(b'"geo_city": null', b'"geo_city": "Oslo"')
    )
    return replace(first, **{"headers": headers, "value": value, **changed})


def correct(*revisions: int, **changed: Any) -> Callable[[Run], None]:
    """Add further versions of the first message."""

    def apply(run: Run) -> None:
        run.analytics += [correction(run.analytics[0], revision, **changed) for revision in revisions]

    return apply


def correct_nothing(run: Run) -> None:
    first = run.analytics.pop(0)
    run.analytics.append(correction(first))


WRONG: dict[str, tuple[Callable[[Run], object], dict[Defect, int]]] = {
    "analytics-dropped": (lambda run: run.analytics.pop(0), {Defect.MISSING: 1}),
    "dead-letter-dropped": (lambda run: run.dead.pop(0), {Defect.MISSING: 1}),
    "output-only-in-an-aborted-transaction": (abort_first, {Defect.MISSING: 1}),
    "analytics-doubled": (lambda run: run.analytics.append(run.analytics[0]), {Defect.DOUBLED: 1}),
    "dead-letter-doubled": (lambda run: run.dead.append(run.dead[-1]), {Defect.DOUBLED: 1}),
    "field-changed": (edit("analytics", 0, b'"info"', b'"warn"'), {Defect.ALTERED: 1}),
    "number-reformatted": (edit("analytics", 0, b"2e3", b"2000.0"), {Defect.ALTERED: 1}),
    "field-lost": (edit("analytics", 0, b'"level": "info", ', b""), {Defect.ALTERED: 1}),
    "field-invented": (edit("analytics", 0, b'"level"', b'"extra": 1, "level"'), {Defect.ALTERED: 1}),
    "column-lost": (edit("analytics", 0, b'"geo_city": null, ', b""), {Defect.ALTERED: 1}),
    "not-strict-json": (edit("analytics", 0, b'"geo_city": null', b'"geo_city": NaN'), {Defect.ALTERED: 1}),
    "key-changed": (change("analytics", key=b"other"), {Defect.ALTERED: 1}),
    "key-lost": (change("analytics", key=None), {Defect.ALTERED: 1}),
    "timestamp-changed": (change("analytics", timestamp=TIME + 7), {Defect.ALTERED: 1}),
    "header-changed": (change_header, {Defect.ALTERED: 1}),
    "header-lost": (drop_header, {Defect.ALTERED: 1}),
    "analytics-swapped": (swap(lambda run: run.analytics), {Defect.MISORDERED: 1}),
    "dead-letters-swapped": (swap(lambda run: run.dead), {Defect.MISORDERED: 1}),
    "other-partition": (
        lambda run: run.analytics.__setitem__(1, replace(run.analytics[1], partition=1)),
        {Defect.MISORDERED: 1},
    ),
    "dead-text-changed": (edit("dead", 0, b"no json", b"my json"), {Defect.ALTERED: 1}),
    "dead-object-changed": (edit("dead", 2, b"no level", b"no idea"), {Defect.ALTERED: 1}),
    "dead-bytes-changed": (edit("dead", 3, b'"//4g', b'"//8g'), {Defect.ALTERED: 1}),
    "cut-letter-is-no-prefix": (edit("dead", 4, b'"too l"', b'"two l"'), {Defect.ALTERED: 1}),
    "cut-letter-does-not-say-so": (edit("dead", 4, b'truncated": true', b'truncated": false'), {Defect.ALTERED: 1}),
    "dead-size-wrong": (edit("dead", 0, b'bytes": 14', b'bytes": 15'), {Defect.ALTERED: 1}),
    "reason-not-in-the-vocabulary": (edit("dead", 0, b"invalid-json", b"bad luck"), {Defect.ALTERED: 1}),
    "dead-offset-wrong": (edit("dead", 0, b'source_offset": 2', b'source_offset": 3'), {Defect.ALTERED: 1}),
    "dead-key-wrong": (edit("dead", 2, b'"//4="', b'"//8="'), {Defect.ALTERED: 1}),
    "dead-timestamp-wrong": (edit("dead", 0, b"1705312800000", b"1705312800001"), {Defect.ALTERED: 1}),
    "correction-doubled": (correct(2, 2), {Defect.DOUBLED: 1}),
    "correction-skipped": (correct(3), {Defect.INVENTED: 1}),
    "correction-of-nothing": (correct_nothing, {Defect.INVENTED: 1, Defect.MISSING: 1}),
    "correction-with-another-key": (correct(2, key=b"other"), {Defect.ALTERED: 1}),
    "correction-with-another-time": (correct(2, timestamp=TIME + 7), {Defect.ALTERED: 1}),
    "correction-in-another-partition": (correct(2, partition=1), {Defect.ALTERED: 1}),
    "correction-is-no-message": (correct(2, value=b"{}"), {Defect.ALTERED: 1}),
    "dead-letter-in-analytics": (move_dead_to_analytics, {Defect.ALTERED: 1, Defect.MISORDERED: 1}),
}


def test_check_holds_when_every_input_has_its_output(topics: Topics) -> None:
    """A right run has no defects, and its counts add up; what an aborted transaction wrote is not there."""
    run = topics.make_run()
    run.analytics += [replace(one, aborted=True) for one in run.analytics]
    topics.publish(run)
    report = topics.check()
    assert report.ok, report.summary()
    assert (report.read, report.analytics, report.partial, report.dead, report.foreign) == (10, 5, 2, 5, 0)
    assert report.enriched_by == {"geo-ip": 5}
    assert report.partial_errors == {"user-not-found": 2}
    assert report.dead_reasons == {
        Reason.INVALID_JSON: 1,
        Reason.EMPTY_MESSAGE: 1,
        Reason.MISSING_FIELD: 1,
        Reason.INVALID_ENCODING: 1,
        Reason.MESSAGE_TOO_LARGE: 1,
    }


def test_check_holds_when_messages_have_corrections(topics: Topics) -> None:
    """Further versions are no doubles: they may differ in what was added, and come at any later time and in any
    order."""
    run = topics.make_run()
    first, second, *_ = run.analytics
    run.analytics += [correction(second), correction(first), correction(first, 3)]
    topics.publish(run)
    report = topics.check()
    assert report.ok, report.summary()
    assert (report.analytics, report.corrections) == (5, 3)
    assert "3 corrections" in report.summary()


def test_check_knows_outputs_of_earlier_versions(topics: Topics) -> None:
    """Those that say their origin in four headers, among others; also of a correction and of a dead letter."""
    run = topics.make_run()
    run.analytics.append(correction(run.analytics[0]))
    for outputs in (run.analytics, run.dead):
        for place in (0, -1):
            *before, _ = outputs[place].headers
            said = said_origin(outputs[place].headers)
            headers = (*before, *former_origin(said.topic, said.partition, said.batch_id, said.offset))
            outputs[place] = replace(outputs[place], headers=headers)
    topics.publish(run)
    report = topics.check()
    assert report.ok, report.summary()
    assert (report.read, report.analytics, report.dead, report.corrections, report.foreign) == (10, 5, 5, 1, 0)


@pytest.mark.parametrize(("break_run", "defects"), WRONG.values(), ids=WRONG.keys())
def test_check_finds_the_defect_when_a_run_is_wrong(
    topics: Topics, break_run: Callable[[Run], object], defects: dict[Defect, int]
) -> None:
    """Each way of being wrong is found, counted once, and described by an example."""
    run = topics.make_run()
    break_run(run)
    topics.publish(run)
    report = topics.check()
    assert report.defects == defects, report.summary()
    assert not report.ok
    assert all(topics.input in report.examples[defect][0] for defect in defects)


def test_check_ignores_offsets_without_message_when_the_input_has_gaps(topics: Topics, topic: MakeTopic) -> None:
    """Aborted input messages and transaction markers need no output, and an output of such an offset is a defect."""
    topics = replace(topics, input=fill(topics.kafka, topic("input", partitions=2)))
    transact(topics.kafka, [(topics.input, INPUTS[0][0])], commit=False)  # offset 5, and its marker 6
    ranges = [OffsetRange(0, 0, 7), OffsetRange(1, 0, 5)]
    run = topics.make_run()
    topics.publish(run)
    assert topics.check(ranges).ok
    topics.publish(Run(analytics=[enriched(topics.input, 5, INPUTS[0][0])]))
    assert topics.check(ranges).defects == {Defect.INVENTED: 1}


def test_check_leaves_other_inputs_aside_when_ranges_are_given(topics: Topics) -> None:
    """Only outputs of the given offsets count, of overlapping ranges once; the rest is foreign."""
    run = topics.make_run()
    run.analytics.append(replace(run.analytics[0], headers=()))  # somebody else's
    topics.publish(run)
    report = topics.check([OffsetRange(0, 0, 1), OffsetRange(0, 3, 5), OffsetRange(0, 4, 5)])
    assert report.ok, report.summary()
    assert (report.read, report.analytics, report.dead, report.foreign) == (3, 2, 1, 8)


def test_check_starts_later_when_output_starts_are_given(topics: Topics) -> None:
    """Outputs before the given starts are not read: an earlier run's output of the same offsets is no double."""
    topics.publish(topics.make_run())
    first = topics.check()
    starts = {(topics.output, 0): 4, (topics.output, 1): 3, (topics.dlq, 0): 3, (topics.dlq, 1): 4}
    topics.publish(topics.make_run())
    second = topics.check(output_starts=starts)
    assert first.ok
    assert second.ok, second.summary()
    assert topics.check().defects == {Defect.DOUBLED: 10}


def test_check_compares_a_sample_when_content_every_is_set(topics: Topics) -> None:
    """Existence is checked for all offsets, the content only of every nth."""
    run = topics.make_run()
    with_value(run.analytics, 1, b'"info"', b'"warn"')  # offset 1
    topics.publish(run)
    assert topics.check(content_every=2).ok
    assert topics.check(content_every=1).defects == {Defect.ALTERED: 1}


@pytest.mark.parametrize(("drop", "code"), [(False, 0), (True, 1)], ids=["right", "one-missing"])
def test_command_line_exits_by_the_verdict_when_run_by_hand(
    topics: Topics, drop: bool, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m enrichment.conservation` prints the summary and exits 0 only when conservation holds."""
    run = topics.make_run()
    if drop:
        run.analytics.pop()
    topics.publish(run)
    names = ["--input-topic", topics.input, "--output-topic", topics.output, "--dlq-topic", topics.dlq]
    assert main(["--bootstrap-servers", topics.kafka, *names, "--ranges", "0:0-5,1:0-5"]) == code
    assert ("BROKEN" in capsys.readouterr().out) is drop


def test_command_line_follows_the_group_when_all_is_asked_for(
    topics: Topics, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--all` checks what the group has committed, and is not content with nothing."""
    run = topics.make_run()
    run.analytics.pop()  # partition 1, offset 4: not committed below
    topics.publish(run)
    names = ["--input-topic", topics.input, "--output-topic", topics.output, "--dlq-topic", topics.dlq]
    arguments = ["--bootstrap-servers", topics.kafka, *names, "--group", topics.output, "--all"]
    assert main(arguments) == 1
    commit(topics.kafka, topics.output, [TopicPartition(topics.input, 0, 5), TopicPartition(topics.input, 1, 4)])
    assert main(arguments) == 0
    assert "9 messages in" in capsys.readouterr().out


def commit(kafka: str, group: str, offsets: list[TopicPartition]) -> None:
    """Commit offsets as a group's non-member does."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": group})
    consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()


def test_check_finds_the_same_side_by_side(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process for each input partition as in one for all: counts, defects with their examples, what is foreign."""
    run = topics.make_run()
    missing, doubled = run.analytics.pop(), run.dead[0]
    run.dead.append(doubled)
    run.analytics += [Sent(b"{}"), replace(missing, headers=(("own", b"1"),))]
    topics.publish(run)
    alone = topics.check()
    assert {Defect.MISSING, Defect.DOUBLED} == alone.defects.keys()
    assert alone.foreign == 2
    monkeypatch.setattr(shares, "SIDE_BY_SIDE_FROM", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    heard: list[int] = []
    monkeypatch.setattr(shares, "LOOK_SECONDS", 0.1)
    assert topics.check(advance=heard.append) == alone
    assert heard
    assert topics.check([OffsetRange(0, 0, 3)]) == topics.check([OffsetRange(0, 0, 2), OffsetRange(0, 2, 3)])


def test_check_side_by_side_raises_as_one_does(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range that never comes, from another process."""
    topics.publish(topics.make_run())
    monkeypatch.setattr(shares, "SIDE_BY_SIDE_FROM", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    beyond = [OffsetRange(0, 0, 5), OffsetRange(1, 0, 5_000_000)]
    with pytest.raises(KafkaException, match=f"no message of {topics.input} 1:0-5000000 in 1 s"):
        check(topics.kafka, topics.input, topics.output, topics.dlq, beyond, timeout=1)
