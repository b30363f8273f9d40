"""The newest dead letters by fingerprint, on the real Kafka."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from enrichment.dead_letters import recent
from enrichment.dead_letters.recent import LetterFingerprint, Reach, RecentLetters, look_at_recent
from tests.fixtures.pipeline import MakePipeline, Pipeline, message
from tests.fixtures.redriven import Redriven

UNKNOWN = 20
SECRET = b'{"level": "info", "service": "shop", "message": "0123456789"}'


@pytest.fixture
def letters(make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch) -> Redriven:
    """Twenty that miss a required source, which is not required any more, and two hopeless ones."""
    pipeline = make_pipeline(ENRICHMENT_REQUIRED_SOURCES="business-context")
    pipeline.produce([message(n, request_id=f"nobody-{n}") for n in range(UNKNOWN)] + [SECRET, b"\xff\xfe"])
    pipeline.run("live")
    monkeypatch.setenv("ENRICHMENT_REQUIRED_SOURCES", "")
    return Redriven(pipeline)


def look(pipeline: Pipeline, **reach: float) -> RecentLetters:
    """A look at the end of the topic."""
    with pipeline.resources() as r:
        return look_at_recent(r.clients, Reach(**{"seconds": 60.0, **reach}))  # type: ignore[arg-type]


def by_reason(found: RecentLetters) -> dict[str, LetterFingerprint]:
    """The groups, one a reason here."""
    assert len({group.reason for group in found.groups}) == len(found.groups)
    return {group.reason: group for group in found.groups}


def test_new_installation_has_no_dead_letters(pipeline: Pipeline) -> None:
    """Nor markers of any."""
    found = look(pipeline)
    assert (found.groups, found.held, found.is_whole, found.knows_redriven) == ([], 0, True, True)


def test_dead_letters_are_grouped_and_redriven_ones_told_apart(letters: Redriven) -> None:
    """By reason, service and detail, with what a redrive would do; one that has sent some in again is seen."""
    letters.run("some", max_letters=5)
    found = by_reason(look(letters.pipeline))
    unknown, missing = found["business-context-not-found"], found["missing-field"]
    assert (unknown.letters, unknown.redriven, unknown.ready, unknown.service) == (
        UNKNOWN, 5, UNKNOWN - 5, "payment-service",
    )  # fmt: skip
    assert (missing.letters, missing.ready, missing.service) == (1, 0, "shop")
    assert missing.why == ["the message itself is at fault, and the same bytes fail again"]
    assert unknown.first <= unknown.last
    assert found.keys() == {"business-context-not-found", "missing-field", "invalid-encoding"}


def test_samples_show_what_came(letters: Redriven, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original, where it came from, and which batch set it aside; what is no text is base64, a long one is cut."""
    monkeypatch.setattr(recent, "SAMPLE_CHARACTERS", 20)
    found = by_reason(look(letters.pipeline))
    [sample] = found["missing-field"].samples
    assert (sample.original, sample.encoding, sample.is_cut) == (SECRET[:20].decode(), "utf-8", True)
    assert (sample.source_topic, sample.key, sample.attempts) == (letters.pipeline.input_topic, "key-20", 1)
    assert sample.batch_id.startswith("dag/live/")
    [sample] = found["invalid-encoding"].samples
    assert (sample.original, sample.encoding, sample.is_cut) == ("//4=", "base64", False)


def test_look_ends_at_its_limits_with_the_newest(letters: Redriven) -> None:
    """It says what ended it, and that there is more."""
    letters.pipeline.produce([b"newest"] * 4)
    letters.pipeline.run("later")
    found = look(letters.pipeline, records=8)  # of each partition one, and the end of its transaction
    assert by_reason(found).keys() == {"invalid-json"}
    assert (found.looked_at, found.is_whole, found.limit) == (8, False, "records")
    assert found.held > UNKNOWN
    assert look(letters.pipeline, seconds=-1).limit == "time"
    assert look(letters.pipeline, value_bytes=1).limit == "bytes"


def test_look_goes_back_slice_by_slice(letters: Redriven, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many that takes, each is counted once, and its marker found."""
    letters.run("some", max_letters=5)
    monkeypatch.setattr(recent, "LETTER_SLICES", (1, 2))
    monkeypatch.setattr(recent, "MARKER_SLICES", (1, 1))
    found = look(letters.pipeline)
    assert by_reason(found)["business-context-not-found"].letters == UNKNOWN
    assert by_reason(found)["business-context-not-found"].redriven == 5
    assert (found.is_whole, found.looked_at) == (True, found.held)


def test_what_is_no_dead_letter_is_told_of(letters: Redriven) -> None:
    """Somebody else writes to the topic: counted by what is wrong with it, and nothing breaks."""
    producer = Producer({"bootstrap.servers": letters.pipeline.bootstrap_servers})
    producer.produce(letters.pipeline.environment["KAFKA_DLQ_TOPIC"], b"hello", partition=0)
    assert producer.flush(30) == 0
    producer.close()
    found = by_reason(look(letters.pipeline))[""]
    assert (found.letters, found.samples) == (1, [])
    assert found.why[0].startswith("no dead letter of this pipeline")
