"""Messages of topics found newest first, on the real Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import Producer

from enrichment.conservation.origins import Origin
from enrichment.errors import RunRefused
from enrichment.inspection import scan as scanning
from enrichment.inspection.conditions import CameFrom, Everything, HasField, HasText, MessageCondition
from enrichment.inspection.scan import Scan, ScanLimits, Scanned
from enrichment.inspection.topics import patient_clients
from enrichment.kafka.settled import await_stable
from tests.fixtures.odd import Odd, send_odd
from tests.fixtures.origins import former_origin
from tests.fixtures.pipeline import Pipeline, message

FIRST = 1_700_000_000_000  # of the pipeline's messages, a millisecond apart


def run(
    pipeline: Pipeline, condition: MessageCondition | None = None, *, topic: str = "", limits: ScanLimits | None = None,
    is_newer: bool = False, stopped: bool = False, **where: Any,
) -> Scanned:  # fmt: skip
    """A scan of the input topic unless told otherwise, of five messages."""
    with pipeline.resources() as r:
        scan = Scan(
            patient_clients(r), topic or pipeline.input_topic, condition or Everything(), limits or ScanLimits(5),
            is_newer=is_newer, stopped=lambda: stopped,
        )  # fmt: skip
        return scan.run(**where)


def numbers(scanned: Scanned) -> list[int]:
    """Which of the pipeline's messages these are."""
    return [found.timestamp - FIRST for found in scanned.found]


def aborted(pipeline: Pipeline, partition: int, count: int) -> None:
    """Offsets of a partition that hold no message."""
    producer = Producer({"bootstrap.servers": pipeline.bootstrap_servers, "transactional.id": pipeline.input_topic})
    producer.init_transactions(30)
    for _ in range(count):
        producer.begin_transaction()
        producer.produce(pipeline.input_topic, b"aborted", partition=partition)
        producer.flush(30)
        producer.abort_transaction(30)
    producer.close()


def test_newest_come_first_and_pages_go_on(pipeline: Pipeline) -> None:
    """Over all partitions, each message once, to the first of all; and back again."""
    pipeline.produce([message(n) for n in range(12)])
    pages: list[Scanned] = [run(pipeline)]
    while not pages[-1].is_done:
        pages.append(run(pipeline, positions=pages[-1].older))
    assert [numbers(page) for page in pages] == [[11, 10, 9, 8, 7], [6, 5, 4, 3, 2], [1, 0]]
    back = run(pipeline, is_newer=True, positions=pages[2].newer)
    assert numbers(back) == [6, 5, 4, 3, 2]
    assert numbers(run(pipeline, positions=back.older)) == [1, 0]
    end = run(pipeline, is_newer=True, positions=run(pipeline).newer)
    assert (numbers(end), end.is_done) == ([], True)
    assert pages[0].oldest_at is not None


def test_pages_go_on_over_messages_that_fit(pipeline: Pipeline) -> None:
    """What fits and had no room on a page begins the next one; nothing is left out or shown twice."""
    pipeline.produce([message(n, service=f"s{n % 3}") for n in range(60)])
    condition, seen, page = HasField("service", "s1"), [], run(pipeline, HasField("service", "s1"))
    while page.found:
        seen += numbers(page)
        page = run(pipeline, condition, positions=page.older)
    assert seen == [n for n in range(59, -1, -1) if n % 3 == 1]


def test_partition_that_is_not_read_far_enough_is_waited_for(pipeline: Pipeline) -> None:
    """Its next message that fits may be newer than that of another partition, which was found before."""
    pipeline.produce([message(0, service="rare")], partition=1)
    pipeline.produce([message(1, service="rare"), *(message(n) for n in range(100))], partition=0)
    found = run(pipeline, HasField("service", "rare"), limits=ScanLimits(1))
    assert numbers(found) == [1]
    assert numbers(run(pipeline, HasField("service", "rare"), positions=found.older)) == [0]


def test_holes_are_passed(pipeline: Pipeline) -> None:
    """What aborted transactions leave is no message, however many offsets it has; nor is it the end."""
    pipeline.produce([message(0)], partition=2)
    aborted(pipeline, 2, 80)
    newest = run(pipeline)
    assert ([found.offset for found in newest.found], newest.is_done) == ([0], True)


def test_time_is_where_a_scan_begins(pipeline: Pipeline) -> None:
    """The messages before a time, or those from it on."""
    pipeline.produce([message(n) for n in range(12)])
    assert numbers(run(pipeline, at=FIRST + 4)) == [3, 2, 1, 0]
    assert numbers(run(pipeline, at=FIRST + 4, is_newer=True)) == [8, 7, 6, 5, 4]


def test_partitions_are_chosen(pipeline: Pipeline) -> None:
    """One that the topic does not have is refused by name."""
    pipeline.produce([message(n) for n in range(12)])
    assert numbers(run(pipeline, partitions=[1])) == [9, 5, 1]
    assert numbers(run(pipeline, like=5)) == [9, 5, 1]
    with pytest.raises(RunRefused, match="no partition 4; it has 0 to 3"):
        run(pipeline, partitions=[4])


def test_new_topic_has_nothing(pipeline: Pipeline) -> None:
    """And says so."""
    empty = run(pipeline)
    assert (empty.found, empty.is_done, empty.messages, empty.oldest_at) == ([], True, 0, None)


@pytest.mark.parametrize(
    ("limits", "stopped"),
    [(ScanLimits(5, messages=1), False), (ScanLimits(5, bytes=1), False), (ScanLimits(5, seconds=0), False),
     (ScanLimits(5), True)],
    ids=["messages", "bytes", "seconds", "stopped"],
)  # fmt: skip
def test_scan_ends_at_its_limits_and_goes_on(pipeline: Pipeline, limits: ScanLimits, stopped: bool) -> None:
    """With how far it has looked: a step at least, so that the next one comes further."""
    pipeline.produce([message(n, service="rare" if n == 3 else "s") for n in range(1_000)])
    first = run(pipeline, HasField("service", "rare"), limits=limits, stopped=stopped)
    assert (first.found, first.is_done, first.messages) == ([], False, 4 * scanning.FIRST_STEP)
    assert first.older == dict.fromkeys(range(4), 250 - scanning.FIRST_STEP)
    assert first.oldest_at == FIRST + 1_000 - 4 * scanning.FIRST_STEP
    rest = run(pipeline, HasField("service", "rare"), positions=first.older)
    assert (numbers(rest), rest.is_done) == ([3], True)


def test_messages_that_are_much_larger_are_read_in_smaller_steps(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step whose bytes are too many is given up, and none of its messages is lost."""
    monkeypatch.setattr(scanning, "MOST_STEP_BYTES", 50_000)
    pipeline.produce([message(n, message="x" * 2_000) for n in range(40)])
    found = run(pipeline, limits=ScanLimits(100))
    assert (numbers(found), found.is_done) == (list(range(39, -1, -1)), True)


def test_conditions_look_into_what_they_say(pipeline: Pipeline) -> None:
    """Text in value, key and headers; fields, also nested ones, lists and escapes; the field of a dead letter's
    message."""
    values: Sequence[bytes | None] = [
        b'{"a": {"b": "x"}, "list": ["p", "q"], "n": 42}', b'{"a": "\\u00e9t\\u00e9"}', "été".encode(), None,
        b'{"original_message": {"a": "inner"}}', b'{"original_message": "broken a=inner {"}', b"\xff\xfe",
    ]  # fmt: skip
    pipeline.produce(values, headers=[("stamp", b"sealed")])

    def found(condition: MessageCondition) -> list[int]:
        return numbers(run(pipeline, condition, limits=ScanLimits(100)))

    assert found(HasText("été")) == [2]
    assert found(HasText("key-5")) == [5]
    assert found(HasText("sealed")) == [6, 5, 4, 3, 2, 1, 0]
    assert found(HasField("a.b", "x")) == [0]
    assert found(HasField("list", "q")) == [0]
    assert found(HasField("n", "42")) == [0]
    assert found(HasField("n", "4")) == []
    assert found(HasField("a", "été")) == [1]
    assert found(HasField("a", "inner")) == [4]
    assert found(HasField("a", "inner", or_text=True)) == [5, 4]
    assert found(HasField("a", "été", or_text=True)) == [2, 1]


def test_outputs_are_found_by_their_origin(pipeline: Pipeline) -> None:
    """An enriched message and a dead letter, in the partition that takes what comes from theirs."""
    pipeline.produce([b"no json" if n == 5 else message(n) for n in range(12)])
    pipeline.run()
    output, dead = pipeline.environment["KAFKA_OUTPUT_TOPIC"], pipeline.environment["KAFKA_DLQ_TOPIC"]
    with pipeline.resources() as r:
        await_stable(r.clients, output, dead)
    enriched = run(pipeline, CameFrom(Origin(pipeline.input_topic, 1, 2)), topic=output, like=1)
    assert numbers(enriched) == [9]
    assert enriched.messages == 2
    assert numbers(run(pipeline, CameFrom(Origin(pipeline.input_topic, 1, 1)), topic=dead, like=1)) == [5]
    assert numbers(run(pipeline, CameFrom(Origin("another", 1, 2)), topic=output)) == []
    earlier = former_origin(pipeline.input_topic, 1, "dag/run/0", 2)
    send_odd(pipeline.bootstrap_servers, output, [Odd(message(9), timestamp=FIRST + 9, headers=earlier)])
    with pipeline.resources() as r:
        await_stable(r.clients, output)
    assert numbers(run(pipeline, CameFrom(Origin(pipeline.input_topic, 1, 2)), topic=output)) == [9, 9]
