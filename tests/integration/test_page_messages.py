"""The routes of messages, search and preview, on the real Kafka and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from confluent_kafka import OFFSET_END, TopicPartition
from confluent_kafka.admin import AdminClient
from fastapi.testclient import TestClient

from enrichment.kafka.settled import await_stable
from enrichment.page import reading
from enrichment.page.app import make_app
from tests.fixtures.kafka import free_ports
from tests.fixtures.pipeline import Pipeline, message
from tests.fixtures.redriven import Redriven
from tests.fixtures.user_service import UserService


@pytest.fixture
def client(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A browser of somebody who may read everything."""
    monkeypatch.setattr(reading, "requires_access_dag", lambda **_: lambda: None)
    app = make_app(pipeline.resources)
    with TestClient(app) as client:
        yield client
    app.state.scans.close()


@pytest.fixture
def published(pipeline: Pipeline) -> dict[str, str]:
    """Twelve messages, one of them dead, are published; the topics by their roles."""
    pipeline.produce([b"no json" if n == 5 else message(n) for n in range(12)])
    [batch] = pipeline.claim("run-7")
    pipeline.finish(pipeline.stage(batch))
    topics = {role: pipeline.environment[f"KAFKA_{role}_TOPIC"] for role in ("INPUT", "OUTPUT", "DLQ")}
    with pipeline.resources() as r:
        await_stable(r.clients, *topics.values())
    return topics


def get(client: TestClient, path: str, status: int = 200, **asked: Any) -> Any:
    """The JSON of an answer that no cache keeps."""
    answer = client.get(f"/api/{path}", params=asked)
    assert answer.status_code == status, answer.text
    assert status != 200 or answer.headers["cache-control"] == "no-store"
    return answer.json()


def offsets(found: Any) -> list[tuple[int, int]]:
    """Where the rows are."""
    return [(row["partition"], row["offset"]) for row in found["rows"]]


def test_topics_and_fields_are_those_of_the_settings(client: TestClient, pipeline: Pipeline) -> None:
    """Five topics, and what a message is searched for by."""
    found = get(client, "topics")
    assert [topic["role"] for topic in found["topics"]] == [
        "input", "enriched", "dead letters", "replayed", "dead letters of replays",
    ]  # fmt: skip
    assert found["topics"][0]["name"] == pipeline.input_topic
    assert found["fields"] == ["trace_id", "span_id", "source_ip", "user_id", "request_id"]


def test_topics_that_replays_named_are_listed(client: TestClient, pipeline: Pipeline) -> None:
    """And may be looked into; without the database the others are there, and it is said what is missing."""
    name = pipeline.environment["KAFKA_OUTPUT_TOPIC"] + "-own"
    with psycopg.connect(pipeline.dsn) as connection:
        connection.execute(
            "INSERT INTO enrichment_replays (replay_id, topic, window_start, window_end, state, purpose, group_id,"
            " messages, selected, dag_id, run_id) VALUES ('r', 'in', now(), now() + interval '1 hour', 'counted',"
            " jsonb_build_object('kind', 'replay', 'output_topic', %s::text), 'g', 0, 0, 'dag', 'run')",
            [name],
        )
    found = get(client, "topics")
    assert ({"name": name, "role": "replayed"} in found["topics"], found["note"]) == (True, "")
    assert "python -m enrichment.kafka" in get(client, "messages", 404, topic=name)["detail"]
    [port] = free_ports(1)
    pipeline.dsn = f"postgresql://postgres@127.0.0.1:{port}/none"
    found = get(client, "topics")
    assert len(found["topics"]) == 5
    assert "PostgreSQL does not answer" in found["note"]


def test_messages_are_browsed(client: TestClient, published: dict[str, str]) -> None:
    """By topic, partition, offset, time and text, on to older ones and back."""
    topic = published["INPUT"]
    every = get(client, "messages", topic=topic)
    assert (len(every["rows"]), every["is_done"]) == (12, True)
    assert every["rows"][0]["timestamp"] == "2023-11-14T22:13:20.011Z"
    assert offsets(get(client, "messages", topic=topic, partition=1)) == [(1, 2), (1, 1), (1, 0)]
    assert offsets(get(client, "messages", topic=topic, partition=1, offset=1)) == [(1, 1), (1, 0)]
    assert offsets(get(client, "messages", topic=topic, at="2023-11-14T22:13:20.002Z")) == [(2, 0), (1, 0), (0, 0)]
    assert offsets(get(client, "messages", topic=topic, text="no json")) == [(1, 1)]
    assert offsets(get(client, "messages", topic=topic, text="trace_id=trace-4")) == [(0, 1)]
    older = get(client, "messages", topic=topic, positions="0:1,1:1")
    assert offsets(older) == [(1, 0), (0, 0)]
    assert offsets(get(client, "messages", topic=topic, positions=older["newer"], newer=True)) == [
        (1, 2), (0, 2), (1, 1), (0, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"topic": "another"}, 404, "none of the pipeline's topics"),
        ({"topic": "INPUT", "offset": 3}, 422, "name that, too"),
        ({"topic": "INPUT", "partition": 9}, 422, "no partition 9; it has 0 to 3"),
        ({"topic": "INPUT", "positions": "x"}, 422, "0:17,1:4"),
        ({"topic": "INPUT", "at": "noon"}, 422, "is no time"),
        ({"topic": "stacklens-analytics-replay"}, 404, "python -m enrichment.kafka"),
    ],
    ids=["topic", "offset alone", "partition", "positions", "time", "topic that is not made yet"],
)
def test_what_cannot_be_shown_is_said_in_words(
    client: TestClient, published: dict[str, str], asked: dict[str, Any], status: int, said: str
) -> None:
    """With what to do."""
    asked = {**asked, "topic": published.get(asked["topic"], asked["topic"])}
    assert said in get(client, "messages", status, **asked)["detail"]


def test_brokers_that_do_not_answer_are_said_to(
    client: TestClient, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within seconds."""
    monkeypatch.setenv("KAFKA_REQUEST_TIMEOUT_SEC", "1")
    [port] = free_ports(1)
    pipeline.bootstrap_servers = f"127.0.0.1:{port}"
    assert get(client, "messages", 503, topic=pipeline.input_topic)["detail"].startswith("Kafka: ")


def test_one_message_is_shown_whole(client: TestClient, published: dict[str, str]) -> None:
    """An enriched one with what its sources said, a dead one with its message; an offset without any is said to be."""
    found = get(client, "message", topic=published["OUTPUT"], partition=1, offset=1)
    detail = found["detail"]
    assert detail["row"]["told"]["origin"] == {"topic": published["INPUT"], "partition": 1, "offset": 2}
    assert json.loads(detail["value"]["text"])["trace_id"] == "trace-9"
    assert [answer["status"] for answer in found["answers"]] == ["answered"] * 3
    [row] = get(client, "messages", topic=published["DLQ"])["rows"]
    dead = get(client, "message", topic=published["DLQ"], partition=row["partition"], offset=row["offset"])["detail"]
    assert (dead["row"]["told"]["reason"], dead["original"]["text"], dead["line"]) == (
        "invalid-json", "no json", "no json",
    )  # fmt: skip
    # After the messages of each partition is the mark of their transaction.
    gone = get(client, "message", 404, topic=published["OUTPUT"], partition=1, offset=2)
    assert "holds no message" in gone["detail"]


def test_message_is_searched_for(client: TestClient, published: dict[str, str]) -> None:
    """By a field in each topic; by where it came from in those of outputs; and its batch."""
    by_trace: dict[str, Any] = {"by": "trace_id", "value": "trace-9"}
    [came_in] = get(client, "search", topic=published["INPUT"], **by_trace)["rows"]
    [went_out] = get(client, "search", topic=published["OUTPUT"], **by_trace)["rows"]
    assert (came_in["partition"], came_in["offset"]) == (1, 2)
    origin = went_out["told"]["origin"]
    assert origin == {"topic": published["INPUT"], "partition": 1, "offset": 2}
    searched = get(client, "search", topic=published["OUTPUT"], by="origin", value=f"{published['INPUT']}/1/2")
    assert searched["rows"] == [went_out]
    assert (searched["messages"], searched["is_done"]) == (1, True)  # of its partition, from its time on
    again = {"by": "origin", "value": f"{published['INPUT']}/1/2", "positions": searched["newer"]}
    assert get(client, "search", topic=published["OUTPUT"], **again)["rows"] == []
    [letter] = get(client, "search", topic=published["DLQ"], by="origin", value=f"{published['INPUT']}/1/1")["rows"]
    assert letter["told"]["reason"] == "invalid-json"
    # What is no JSON may still be the one.
    assert get(client, "search", topic=published["DLQ"], by="trace_id", value="no json")["rows"] == [letter]
    [fate] = get(client, "fates", **origin, batch_id=[went_out["told"]["batch_id"]])["batches"]
    assert (fate["run_id"], fate["state"]) == ("run-7", "published")


def test_search_by_field_begins_at_a_time(client: TestClient, published: dict[str, str]) -> None:
    """What is later is left out."""
    asked: dict[str, Any] = {"by": "service", "value": "payment-service", "at": "2023-11-14T22:13:20.004Z"}
    found = get(client, "search", topic=published["INPUT"], **asked)
    assert sorted(offsets(found)) == [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0)]


def test_outputs_of_a_message_that_has_left_its_topic_are_found(
    client: TestClient, published: dict[str, str], pipeline: Pipeline
) -> None:
    """From the beginning of theirs."""
    admin = AdminClient({"bootstrap.servers": pipeline.bootstrap_servers})
    gone = TopicPartition(published["INPUT"], 1, OFFSET_END)
    admin.delete_records([gone])[gone].result()
    origin: dict[str, Any] = {"by": "origin", "value": f"{published['INPUT']}/1/2"}
    found = get(client, "search", topic=published["OUTPUT"], **origin)
    assert (offsets(found), found["messages"]) == ([(1, 1)], 2)
    assert "holds no message" in get(client, "message", 404, topic=published["INPUT"], partition=1, offset=2)["detail"]


def test_redriven_message_has_both_outcomes(
    client: TestClient, pipeline: Pipeline, user_service: UserService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dead letter, then what was made of it: found by where it came from first."""
    monkeypatch.setenv("ENRICHMENT_REQUIRED_SOURCES", "user-profile")
    user_service.set_fault(user_ids=["user-2"], answer="wrong-types")
    pipeline.produce([message(n) for n in range(4)])
    pipeline.run()
    user_service.end_fault()
    Redriven(pipeline).run()
    where: dict[str, Any] = {"by": "origin", "value": f"{pipeline.input_topic}/2/0"}
    with pipeline.resources() as r:
        topics = r.settings.kafka
        await_stable(r.clients, topics.output_topic, topics.dlq_topic)
    letters = get(client, "search", topic=pipeline.environment["KAFKA_DLQ_TOPIC"], **where)["rows"]
    outputs = get(client, "search", topic=pipeline.environment["KAFKA_OUTPUT_TOPIC"], **where)["rows"]
    assert [letter["told"]["reason"] for letter in letters] == ["user-service-error"]
    assert outputs[0]["told"]["letter"] == {
        "topic": pipeline.environment["KAFKA_DLQ_TOPIC"], "partition": 2, "offset": letters[0]["offset"],
    }  # fmt: skip
    ids = [letters[0]["told"]["batch_id"], outputs[0]["told"]["batch_id"]]
    fates = get(client, "fates", topic=pipeline.input_topic, partition=2, offset=0, batch_id=ids)["batches"]
    assert [fate["kind"] for fate in fates] == ["live", "redrive"]
    letter = outputs[0]["told"]["letter"]
    with pipeline.resources() as r:
        await_stable(r.clients, topics.redriven_topic)
    told = get(client, "redriven", **letter)
    assert (told["marker"]["batch_id"], told["next"]) == (ids[1], "")
    assert [fate["batch_id"] for fate in told["batches"]] == [ids[1]]
    output = {"topic": topics.output_topic, "partition": outputs[0]["partition"], "offset": outputs[0]["offset"]}
    get(client, "redriven", 422, **output)
    get(client, "redriven", 404, **{**letter, "offset": 99})


def test_preview_takes_what_is_pasted(client: TestClient) -> None:
    """Bytes as they are."""
    made = client.post("/api/preview", content=message(1)).json()
    assert made["outcome"]["row"]["told"]["sources"] == ["geo-ip", "user-profile", "business-context"]
    assert made["given"]["line"] == message(1).decode()
    assert client.post("/api/preview", content=b"x" * 1_000_001).status_code == 413
    assert client.post("/api/preview", content=b"x", headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_preview_takes_a_message_from_any_topic(client: TestClient, published: dict[str, str]) -> None:
    """What came in, of whatever became of it, with its key."""

    def tried(role: str, **where: int) -> Any:
        answer = client.post("/api/preview", params={"topic": published[role], **where})
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert tried("INPUT", partition=1, offset=2)["given"]["row"]["key"] == "key-9"
    again = tried("OUTPUT", partition=1, offset=1)
    assert (again["given"]["line"], again["given"]["row"]["topic"]) == (message(9).decode(), published["INPUT"])
    [row] = get(client, "messages", topic=published["DLQ"])["rows"]
    dead = tried("DLQ", partition=row["partition"], offset=row["offset"])
    assert (dead["given"]["line"], dead["given"]["row"]["key"]) == ("no json", "key-5")
    assert dead["given"]["headers"] == []
    assert dead["outcome"]["row"]["told"]["reason"] == "invalid-json"
