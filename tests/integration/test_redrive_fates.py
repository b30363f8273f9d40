"""Whether a dead letter was sent in again, is about to be, or never was: what somebody is told who follows it."""

from __future__ import annotations

from datetime import datetime

import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from enrichment.inspection import redrives
from enrichment.inspection.batches import BatchFate
from enrichment.inspection.conditions import Everything
from enrichment.inspection.redrives import MarkerSearch, find_marker, open_redrives, search_marker
from enrichment.inspection.scan import FoundMessage, Scan, ScanLimits
from enrichment.kafka.settled import require_stable
from enrichment.messages import HEADER_LETTER_TOPIC_ID
from enrichment.statements import Statements
from tests.fixtures.pipeline import MakePipeline, message
from tests.fixtures.redriven import Redriven

UNKNOWN = 12


@pytest.fixture
def letters(make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch) -> Redriven:
    """Twelve that miss a required source, which is not required any more, and a hopeless one."""
    pipeline = make_pipeline(ENRICHMENT_REQUIRED_SOURCES="business-context")
    pipeline.produce([message(n, request_id=f"nobody-{n}") for n in range(UNKNOWN)] + [b"no JSON"])
    pipeline.run("live")
    monkeypatch.setenv("ENRICHMENT_REQUIRED_SOURCES", "")
    return Redriven(pipeline)


def all_of(letters: Redriven) -> list[FoundMessage]:
    """The dead letters, the hopeless one last."""
    with letters.pipeline.resources() as r:
        require_stable(r.clients, r.settings.kafka.dlq_topic)
        found = Scan(r.clients, r.settings.kafka.dlq_topic, Everything(), ScanLimits(100)).run().found
    assert len(found) == UNKNOWN + 1
    return sorted(
        found, key=lambda letter: (b'"invalid-json"' in (letter.value or b""), letter.partition, letter.offset)
    )


def marker_of(letters: Redriven, letter: FoundMessage, positions: dict[int, int] | None = None) -> MarkerSearch:
    """As the page looks for it."""
    with letters.pipeline.resources() as r:
        require_stable(r.clients, r.settings.kafka.redriven_topic)
        return find_marker(r.clients, letter, positions)


def open_ones(letters: Redriven, letter: FoundMessage) -> list[BatchFate]:
    """As the page asks for them."""
    with letters.pipeline.resources() as r, r.query_connection(5) as connection:
        return open_redrives(Statements(connection), r.clients, letter)


def test_marker_says_by_which_batch_and_when(letters: Redriven) -> None:
    """Of each that was sent in again, and of no other."""
    *unknown, hopeless = all_of(letters)
    before = datetime.now().astimezone()
    letters.run("again")
    for letter in unknown:
        found = marker_of(letters, letter)
        assert found.marker is not None
        assert found.marker.batch_id.startswith("redrive/again/")
        assert before < datetime.fromisoformat(found.marker.at) < datetime.now().astimezone()
    assert marker_of(letters, hopeless).marker is None
    assert marker_of(letters, hopeless).is_done
    assert open_ones(letters, unknown[0]) == []


def test_redrive_under_way_is_found_by_what_it_has_chosen(letters: Redriven) -> None:
    """From its claim on until it is published; what its filter leaves out it does not have, and a dry run has none."""
    *unknown, hopeless = all_of(letters)
    letters.claim("dry", dry_run=True)
    assert open_ones(letters, unknown[0]) == []
    [batch], _ = letters.claim("again")
    [fate] = open_ones(letters, unknown[0])
    assert (fate.batch_id, fate.run_id, fate.state, fate.kind) == (batch.batch_id, "again", "claimed", "redrive")
    assert open_ones(letters, hopeless) == []
    with psycopg.connect(letters.pipeline.dsn) as connection:  # a range that reaches over a letter of another reason
        connection.execute(
            """UPDATE enrichment_jobs SET ranges = (SELECT jsonb_agg(jsonb_build_object(
                'partition', p, 'start', 0, 'end', 100)) FROM generate_series(0, 3) AS p) WHERE batch_id = %s""",
            [batch.batch_id],
        )
    assert open_ones(letters, hopeless) == []
    assert marker_of(letters, unknown[0]).marker is None
    letters.pipeline.finish(letters.pipeline.stage(batch))
    assert open_ones(letters, unknown[0]) == []


def test_markers_of_an_earlier_topic_do_not_count(letters: Redriven) -> None:
    """They have the same offsets, and another topic's id; nor does a tombstone, which no redrive writes."""
    letter, *_ = all_of(letters)
    key = b"%d:%d" % (letter.partition, letter.offset)
    producer = Producer({"bootstrap.servers": letters.pipeline.bootstrap_servers})
    with letters.pipeline.resources() as r:
        topic = r.settings.kafka.redriven_topic
    producer.produce(topic, b"x", key, letter.partition, headers=[(HEADER_LETTER_TOPIC_ID, b"another")])
    producer.produce(topic, None, key, letter.partition)
    assert producer.flush(30) == 0
    producer.close()
    assert marker_of(letters, letter).marker is None


def test_search_goes_on_where_it_has_come_to(letters: Redriven, monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps: somebody waits for each."""
    *unknown, _ = all_of(letters)
    last = max(unknown, key=lambda letter: (letter.partition, letter.offset))
    letters.run("again")
    monkeypatch.setattr(redrives, "STEP", ScanLimits(count=1, step=1, messages=1))
    found, steps = marker_of(letters, last), 1
    while found.marker is None and not found.is_done:
        found, steps = marker_of(letters, last, found.reached), steps + 1
    assert found.marker is not None
    assert steps > 1


def test_where_nothing_was_ever_sent_in_again_there_is_no_topic(
    letters: Redriven, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is no failure; every other one is."""
    letter, *_ = all_of(letters)
    with letters.pipeline.resources() as r:
        monkeypatch.setattr(type(r.settings.kafka), "redriven_topic", property(lambda _: "there-is-none"))
        assert search_marker(r.clients, letter, None) == MarkerSearch(None, {}, is_done=True)
        monkeypatch.setattr(redrives, "read_topic_id", _refuse)
        with pytest.raises(KafkaException):
            search_marker(r.clients, letter, None)


def _refuse(*_: object) -> None:
    raise KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN))
