"""The log generator: what it makes, that a seed decides it, and what a file gives back."""

from __future__ import annotations

import gzip
import ipaddress
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from enrichment.codec.decode import decode
from enrichment.messages import Reason
from include.local.generate import KNOWN_USERS, Options, main, messages, options_of, parse
from include.local.malform import MALFORMATIONS
from include.local.records import NOW, Record, milliseconds, play_file, write_file
from include.user_service.population import find_profile

KEYS = ("source_ip", "user_id", "request_id")
START = 1_705_312_800_000
CLEAN = Options(count=5_000, malformed=0, start_ms=START)
GOOD = (
    b'{"timestamp":"2024-01-15T10:00:00Z","service":"s","level":"info","message":"m","trace_id":"t",'
    b'"span_id":"p","source_ip":"8.8.8.8","user_id":"user-123","request_id":"req-789"}'
)


@pytest.fixture(scope="module")
def clean() -> list[Record]:
    """Messages with nothing wrong."""
    return list(messages(CLEAN))


@pytest.fixture(scope="module")
def parsed(clean: list[Record]) -> list[dict[str, Any]]:
    """Their values."""
    return [json.loads(record.value or b"") for record in clean]


def test_messages_are_the_same_when_seed_and_start_are() -> None:
    """The same options give the same records; another seed gives others."""
    options = Options(count=3_000, malformed=0.1, start_ms=START)
    assert list(messages(options)) == list(messages(options))
    assert list(messages(options)) != list(messages(replace(options, seed=8)))


@pytest.mark.parametrize("count", [0, 1, 20_000])
def test_messages_are_as_many_as_asked_for(count: int) -> None:
    """The count is exact, whatever the blocks."""
    assert sum(1 for _ in messages(Options(count=count))) == count


def test_every_message_is_an_event_when_none_is_malformed(clean: list[Record]) -> None:
    """The pipeline accepts each of them, and about 300 bytes is what they are."""
    assert decode(pa.array([record.value for record in clean], pa.binary()), KEYS).refused == {}
    assert 250 < sum(len(record.value or b"") for record in clean) / len(clean) < 350


def test_lines_of_a_request_share_what_identifies_it(parsed: list[dict[str, Any]]) -> None:
    """Up to five lines a request, with one address, user and trace; every line has its own span."""
    traces: dict[str, set[tuple[Any, ...]]] = {}
    for event in parsed:
        keys = tuple(event.get(name) for name in ("source_ip", "user_id", "request_id"))
        traces.setdefault(event["trace_id"], set()).add(keys)
    lines = Counter(event["trace_id"] for event in parsed)
    assert all(len(keys) == 1 for keys in traces.values())
    assert 1 < max(lines.values()) <= 5
    assert len({event["span_id"] for event in parsed}) == len(parsed)


def test_record_fits_its_value(clean: list[Record], parsed: list[dict[str, Any]]) -> None:
    """The record's key is the request id, else the service; its timestamp is that of the value."""
    for record, event in zip(clean, parsed, strict=True):
        assert record.key == (event.get("request_id") or event["service"]).encode()
        assert record.timestamp_ms == milliseconds(event["timestamp"]) >= START


def test_keys_are_varied_as_real_ones_are(parsed: list[dict[str, Any]]) -> None:
    """Skewed users that the user service knows, a few absent, unknown, private, IPv6 and invalid keys."""
    users = Counter(event.get("user_id") for event in parsed)
    assert users.most_common(1)[0][0] == KNOWN_USERS[0]
    assert users[KNOWN_USERS[0]] > 20 * len(parsed) / CLEAN.users
    assert any(find_profile(user) is None for user in users if user)
    assert sum(count for user, count in users.items() if user and find_profile(user)) > 0.8 * len(parsed)
    requests = {event.get("request_id") for event in parsed}
    assert {None, "req-000000", "req-000001"} < requests
    assert any(str(request).startswith("req-unknown") for request in requests)
    kinds = Counter(kind_of(event.get("source_ip")) for event in parsed)
    assert set(kinds) == {"absent", "invalid", "private", "public-4", "public-6"}
    assert kinds["public-4"] > 0.8 * len(parsed)


def kind_of(address: str | None) -> str:
    """What sort of address it is."""
    if address is None:
        return "absent"
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "invalid"
    return f"public-{parsed.version}" if parsed.is_global else "private"


def test_share_of_malformed_messages_is_what_was_asked_for() -> None:
    """With a tenth malformed, about a tenth differs from the good messages of the same seed."""
    options = Options(count=10_000, malformed=0.1, seed=3, lines_per_request=(2, 2), start_ms=START)
    refused = decode(pa.array([record.value for record in messages(options)], pa.binary()), KEYS).refused
    enriched_all_the_same = 3 / len(MALFORMATIONS)
    assert len(refused) == pytest.approx(1_000 * (1 - enriched_all_the_same), rel=0.15)


@pytest.mark.parametrize(
    ("name", "reason"),
    {
        "not-json": Reason.INVALID_JSON,
        "cut-off": Reason.INVALID_JSON,
        "not-a-number": Reason.INVALID_JSON,
        "not-utf8": Reason.INVALID_ENCODING,
        "array": Reason.NOT_AN_OBJECT,
        "missing-field": Reason.MISSING_FIELD,
        "wrong-type": Reason.WRONG_TYPE,
        "tombstone": Reason.EMPTY_MESSAGE,
        "deep": Reason.NESTED_TOO_DEEP,
        "output-keys": None,
        "duplicate-key": None,
        "large": None,
    }.items(),
)
def test_malformation_has_its_declared_outcome(name: str, reason: Reason | None) -> None:
    """Each way of being malformed is refused for its reason, or is enriched."""
    refused = decode(pa.array([MALFORMATIONS[name](GOOD)], pa.binary()), KEYS).refused
    assert (refused[0].reason if refused else None) is reason


def test_every_malformation_is_made_when_there_are_enough_messages() -> None:
    """All kinds occur."""
    values = [record.value for record in messages(Options(count=2_000, malformed=1, start_ms=START))]
    assert None in values
    assert {refusal.reason for refusal in decode(pa.array(values, pa.binary()), KEYS).refused.values()} >= {
        Reason.INVALID_JSON, Reason.INVALID_ENCODING, Reason.NOT_AN_OBJECT, Reason.MISSING_FIELD, Reason.WRONG_TYPE,
        Reason.NESTED_TOO_DEEP,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["logs.jsonl", "logs.jsonl.gz"])
def test_file_gives_back_what_was_written(tmp_path: Path, name: str) -> None:
    """Values, malformed ones and tombstones too, come back as they were, compressed or not."""
    made = list(messages(Options(count=500, malformed=0.5, start_ms=START)))
    assert write_file(made, tmp_path / name) == 500
    assert [record.value for record in play_file(tmp_path / name)] == [record.value for record in made]


@pytest.mark.parametrize(
    ("line", "key", "timestamp"),
    {
        "request": (GOOD, b"req-789", START),
        "service": (b'{"service":"s","timestamp":"2024-01-15T11:00:00+01:00"}', b"s", START),
        "no-zone": (b'{"timestamp":"2024-01-15T10:00:00"}', None, START),
        "no-time": (b'{"service":5,"timestamp":"yesterday"}', None, NOW),
        "no-json": (b"\xff nonsense", None, NOW),
        "empty": (b"", None, NOW),
    }.values(),
    ids=["request", "service", "no-zone", "no-time", "no-json", "empty"],
)
def test_key_and_timestamp_come_from_the_line(tmp_path: Path, line: bytes, key: bytes | None, timestamp: int) -> None:
    """Request id or service, and the line's time in any zone; a line that says nothing has neither."""
    file = tmp_path / "logs.jsonl"
    file.write_bytes(line + b"\r\n")
    assert list(play_file(file)) == [Record(key, line or None, timestamp, [])]
    assert [record.timestamp_ms for record in play_file(file, keep_times=False)] == [NOW]


def test_command_line_writes_a_file_when_output_is_given(tmp_path: Path) -> None:
    """`--output logs.jsonl.gz` holds the messages of the seed and the start."""
    file = tmp_path / "logs.jsonl.gz"
    start = ["--start", "2024-01-15T10:00:00Z"]
    assert main(["--count", "50", "--seed", "1", "--malformed", "0", *start, "--output", str(file)]) == 0
    expected = messages(Options(count=50, seed=1, malformed=0, start_ms=START))
    assert gzip.decompress(file.read_bytes()).splitlines() == [record.value for record in expected]


def test_command_line_becomes_options() -> None:
    """Every option arrives; a rate spaces the messages."""
    arguments = "--count 5 --rate 100 --malformed 0.5 --seed 1 --users 2 --addresses 3 --skew 0 --requests 4"
    chosen = parse([*arguments.split(), "--lines-per-request", "2", "--start", "2024-01-15T10:00:00Z", "--output", "-"])
    assert options_of(chosen) == Options(5, 1, 0.5, 2, 3, 0.0, (2, 2), 4, START, 10.0)


@pytest.mark.parametrize(
    "wrong",
    [["--count", "0"], ["--malformed", "2"], ["--lines-per-request", "5-1"], ["--bootstrap-servers", "b:1"]],
    ids=["no-messages", "share", "bounds", "two-targets"],
)
def test_command_line_is_refused_when_it_is_wrong(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A value that makes no sense is named."""
    with pytest.raises(SystemExit):
        parse(["--output", "-", *wrong])
    assert wrong[0] in capsys.readouterr().err
