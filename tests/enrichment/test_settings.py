"""Settings from the environment."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path

import pytest

from enrichment import sql
from enrichment.enrichers.business import DEFAULT_RULES
from enrichment.enrichers.user import UserSettings
from enrichment.errors import SettingsError
from enrichment.settings import ReplaySettings, load, load_room, loading, rooms
from enrichment.variables import variable


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in rooms().values():
        for name in room.model_fields:
            monkeypatch.delenv(variable(room, name), raising=False)


def test_defaults_are_those_of_the_design() -> None:
    """Without any variable: the documented topics, cache sizes and times to live."""
    settings = load()
    assert (settings.kafka.input_topic, settings.kafka.output_topic, settings.kafka.dlq_topic) == (
        "stacklens-enriched", "stacklens-analytics", "analytics-dlq",
    )  # fmt: skip
    geo, user, business = (settings.enrichers[name] for name in ("geo", "user", "business"))
    assert (geo.cache_size, geo.cache_ttl_sec) == (10_000, 3600)
    assert isinstance(user, UserSettings)
    assert (user.cache_size, user.cache_ttl_sec, user.timeout_sec) == (5_000, 3600, 5)
    assert (business.cache_size, business.cache_ttl_sec) == (5_000, 1800)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("KAFKA_BATCH_SIZE", "2000", lambda s: s.kafka.batch_size == 2000),
        ("GEO_IP_CACHE_TTL_HOURS", "0.5", lambda s: s.enrichers["geo"].cache_ttl_sec == 1800),
        ("USER_SERVICE_TIMEOUT_SEC", "2", lambda s: s.enrichers["user"].timeout_sec == 2),
        ("ENRICHMENT_REQUIRED_SOURCES", "geo-ip, user-profile", lambda s: len(s.pipeline.required_sources) == 2),
    ],
)
def test_variable_of_the_old_service_is_read(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: object
) -> None:
    """The variables of the old service configure this one."""
    monkeypatch.setenv(name, value)
    assert expected(load())  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAFKA_BATCH_SIZE", "many"),
        ("KAFKA_BATCH_SIZE", "0"),
        ("KAFKA_RETENTION_BYTES", "0"),
        ("KAFKA_RETENTION_BYTES", "-2"),
        ("KAFKA_OFFSETS_LOST_POLICY", "ignore"),
        ("GEO_IP_CACHE_TTL_HOURS", "-1"),
        ("USER_SERVICE_CONCURRENCY", "1.5"),
        ("CACHE_STALE_GRACE_HOURS", "x"),
        ("ENRICHMENT_REQUIRED_SOURCES", "weather"),
        ("ENRICHMENT_MAX_DEAD_LETTER_SHARE", "2"),
        ("KAFKA_CHUNK_SIZE", "9223372036854775807"),
        ("KAFKA_CHUNK_BYTES", "4294967296"),
        ("USER_SERVICE_CONCURRENCY", "1000000000"),
        ("USER_SERVICE_RETRIES", "2000"),
        ("POSTGRES_CACHE_TIMEOUT_SEC", "1e308"),
        ("POSTGRES_LEDGER_TIMEOUT_SEC", "3000000"),
        ("POSTGRES_CONNECT_TIMEOUT_SEC", "1e12"),
        ("CACHE_STALE_GRACE_HOURS", "inf"),
        ("GEO_IP_CACHE_TTL_HOURS", "1e300"),
        ("RETENTION_JOBS_DAYS", "1e10"),
        ("RETENTION_DAG_RUNS_DAYS", "inf"),
        ("ENRICHMENT_OUTAGE_HOLD_DEADLINE_MINUTES", "nan"),
        ("GEO_IP_LOCALE", "\udcff"),
        ("GEO_IP_LOCALE", ""),
        ("GEO_IP_DATABASE_PATH", "~nobody-here/x"),
        ("GEO_IP_INSTALL_PATH", "~nobody-here/x"),
        ("BUSINESS_RISK_RULES_PATH", "~nobody-here/x"),
        ("SERVICE_LEVEL_NOTIFIER_KWARGS", '{"a":' * 100_000),
    ],
)
def test_unusable_value_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """An error names the variable and the value that it has."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load()
    assert f"{name}={value!r}"[:200] in str(refused.value)


def test_all_unusable_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to find one mistake after the other."""
    monkeypatch.setenv("KAFKA_LANES", "none")
    monkeypatch.setenv("GEO_IP_CACHE_SIZE", "none")
    with pytest.raises(SettingsError, match=r"KAFKA_LANES.*GEO_IP_CACHE_SIZE"):
        load()


def test_fingerprint_changes_with_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger can tell which settings made a batch."""
    before = load().fingerprint
    assert load().fingerprint == before
    monkeypatch.setenv("GEO_IP_LOCALE", "de")
    assert load().fingerprint != before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GEO_IP_DATABASE_PATH", "/here/City.mmdb"),
        ("GEO_IP_INSTALL_PATH", "/here/installed.mmdb"),
        ("ENRICHMENT_STAGING_URL", "file:///here/staging"),
        ("ENRICHMENT_POSTGRES_CONN_ID", "ours"),
        ("KAFKA_CONN_ID", "ours"),
        ("GEO_IP_KNOWN_ADDRESSES", "9.9.9.9=US"),
        ("RETENTION_JOBS_DAYS", "5"),
        ("SERVICE_LEVEL_MAX_LAG", "5"),
        ("CACHE_EVICTION_CHUNK_ROWS", "5"),
    ],
)
def test_fingerprint_is_the_same_on_equal_workers(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Where a worker has its files, and what changes no message, makes no other batch."""
    before = load().fingerprint
    monkeypatch.setenv(name, value)
    assert load().fingerprint == before


def test_fingerprint_is_that_of_the_rules_not_of_their_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two workers with equal rules in different places are equal; other rules in the same place make other batches."""
    before = load().fingerprint
    copy = tmp_path / "rules.toml"
    copy.write_bytes(DEFAULT_RULES.read_bytes())
    monkeypatch.setenv("BUSINESS_RISK_RULES_PATH", str(copy))
    assert load().fingerprint == before
    copy.write_text(copy.read_text() + "\n# changed\n")
    assert load().fingerprint != before


def test_fingerprint_changes_with_the_query_of_the_business_context(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Users adapt it to their tables: what it answers is in every message."""
    before = load().fingerprint
    shutil.copytree(sql.DEFAULT_FOLDER, tmp_path / "sql")
    monkeypatch.setenv(sql.FOLDER_VARIABLE, str(tmp_path / "sql"))
    sql.load.cache_clear()
    try:
        assert load().fingerprint == before
        (tmp_path / "sql" / "business_context" / "fetch.sql").write_text("SELECT 1")
        sql.load.cache_clear()
        assert load().fingerprint != before
    finally:
        sql.load.cache_clear()


def test_fingerprint_names_the_variable_when_the_rules_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A claim that could not be finished is not begun."""
    monkeypatch.setenv("BUSINESS_RISK_RULES_PATH", str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match=r"BUSINESS_RISK_RULES_PATH=.*none\.toml"):
        _ = load().fingerprint


def test_fields_that_the_fingerprint_leaves_out_exist() -> None:
    """A field that is renamed must not come back into it unseen."""
    for name, fields in loading._ELSEWHERE.items():
        assert fields <= rooms()[name].model_fields.keys()
    assert set(loading._OTHER_ROOMS) < rooms().keys()


def test_settings_do_not_change() -> None:
    """Settings are frozen: a task cannot change them for another."""
    with pytest.raises(ValueError, match="frozen"):
        load().kafka.lanes = 2


TOPICS = ("KAFKA_INPUT_TOPIC", "KAFKA_OUTPUT_TOPIC", "KAFKA_DLQ_TOPIC", "REPLAY_OUTPUT_TOPIC", "REPLAY_DLQ_TOPIC")
PAIRS = [pair for pair in combinations(TOPICS, 2) if pair != ("KAFKA_OUTPUT_TOPIC", "REPLAY_OUTPUT_TOPIC")]


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=map(" ".join, PAIRS))
def test_topics_that_are_the_same_are_refused_by_both_names(
    monkeypatch: pytest.MonkeyPatch, one: str, other: str
) -> None:
    """An output that is an input loops, two outputs in one topic are told apart by nobody."""
    monkeypatch.setenv(one, "same")
    monkeypatch.setenv(other, "same")
    with pytest.raises(SettingsError, match=f"{one} and {other} are the same topic, same"):
        load()


@pytest.mark.parametrize("variable", [topic for topic in TOPICS if topic != "KAFKA_DLQ_TOPIC"])
def test_topic_that_is_the_one_of_the_markers_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Its name follows from that of the dead letters."""
    monkeypatch.setenv(variable, "analytics-dlq-redriven")
    with pytest.raises(SettingsError, match=rf"(?=.*{variable})(?=.*KAFKA_DLQ_TOPIC with -redriven)"):
        load()


def test_topics_that_kafka_takes_for_one_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka makes no second topic whose name differs in '.' and '_' only."""
    monkeypatch.setenv("KAFKA_INPUT_TOPIC", "logs.in_1")
    monkeypatch.setenv("KAFKA_OUTPUT_TOPIC", "logs_in.1")
    with pytest.raises(SettingsError, match=r"KAFKA_INPUT_TOPIC='logs.in_1' and KAFKA_OUTPUT_TOPIC='logs_in.1'"):
        load()


def test_replays_may_go_to_the_topic_of_the_live_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their header tells them apart."""
    monkeypatch.setenv("REPLAY_OUTPUT_TOPIC", "stacklens-analytics")
    assert load().replay.output_topic == load().kafka.output_topic


@pytest.mark.parametrize("variable", TOPICS)
@pytest.mark.parametrize("name", ["", " ", ".", "..", "a b", "a/b", "ä", "a\n", "x" * 250, "__consumer_offsets"])
def test_name_that_kafka_refuses_for_a_topic_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, name: str
) -> None:
    """By the variable, before anything is asked."""
    monkeypatch.setenv(variable, name)
    with pytest.raises(SettingsError, match=f"{variable}="):
        load()


@pytest.mark.parametrize("name", ["", " ", "\t", " group", "group ", "a\nb", "x" * 201])
def test_name_that_is_none_for_a_group_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """An empty one aborts the process in the client's library, without a word."""
    monkeypatch.setenv("KAFKA_CONSUMER_GROUP", name)
    with pytest.raises(SettingsError, match="KAFKA_CONSUMER_GROUP="):
        load()


@pytest.mark.parametrize("name", ["team a/stacklens", "größe", "a.b:c"])
def test_name_that_kafka_takes_for_a_group_is_taken(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Groups have fewer rules than topics."""
    monkeypatch.setenv("KAFKA_CONSUMER_GROUP", name)
    assert load().kafka.consumer_group == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAFKA_CONN_ID", ""),
        ("KAFKA_LANES", "1000000000"),
        ("KAFKA_BATCH_BYTES", str(2**63)),
        ("KAFKA_MAX_MESSAGE_BYTES", "999"),
        ("KAFKA_MAX_MESSAGE_BYTES", "2000000000"),
        ("KAFKA_REQUEST_TIMEOUT_SEC", "inf"),
        ("KAFKA_REQUEST_TIMEOUT_SEC", "3601"),
        ("KAFKA_REQUEST_TIMEOUT_SEC", "nan"),
        ("KAFKA_TRANSACTION_TIMEOUT_SEC", "0.5"),
        ("KAFKA_TRANSACTION_TIMEOUT_SEC", "inf"),
        ("USER_SERVICE_TIMEOUT_SEC", "inf"),
        ("KAFKA_DLQ_TOPIC", "x" * 241),
    ],
)
def test_value_that_a_client_or_the_ledger_would_refuse_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Here, by the variable, and not in the middle of a task."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}="):
        load()


def test_one_room_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the DAG processor reads by itself is refused as everything else is."""
    monkeypatch.setenv("REPLAY_OUTPUT_TOPIC", "a b")
    with pytest.raises(SettingsError, match=r"^REPLAY_OUTPUT_TOPIC='a b': "):
        load_room(ReplaySettings)
