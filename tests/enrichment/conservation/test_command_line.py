"""The conservation check's command line: what it says of what cannot be meant."""

from __future__ import annotations

import time
from unittest.mock import Mock

import pytest
from confluent_kafka import KafkaError, KafkaException

from enrichment.conservation import __main__ as command
from enrichment.conservation.report import ConservationReport

BROKERS = ("--bootstrap-servers", "broker:9092")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ranges", "0:0-9,foo"], "'foo' is no range of a partition, such as 0:0-100"),
        (["--ranges", "0:9"], "'0:9' is no range of a partition"),
        (["--all", "--content-every", "0"], "'0' is no whole number from 1"),
        (["--all", "--content-every", "two"], "'two' is no whole number from 1"),
        (["--all", "--replay-id", "again", "--start", "soon"], "'soon' is no time such as 2024-01-15T10:00:00Z"),
        (["--all", "--replay-id", "again"], "--replay-id needs --start and --end"),
        (["--all", "--connection"], "not allowed with argument --bootstrap-servers"),
        (["--all", "--client", "ssl"], "'ssl' is no option with a value, such as security.protocol=SSL"),
    ],
)
def test_wrong_argument_is_named(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With what would be right, before any broker is asked."""
    with pytest.raises(SystemExit) as ended:
        command.main([*BROKERS, *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_nothing_to_check_is_not_said_to_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with 1, and says why."""
    monkeypatch.setattr(command, "check", lambda *_, **__: ConservationReport())
    assert command.main([*BROKERS, "--ranges", "0:0-0"]) == 1
    printed = capsys.readouterr().out
    assert "nothing to check" in printed
    assert "holds" not in printed


def test_brokers_get_the_options_that_they_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as those of SASL, beside their addresses; a value may have an equals sign in it."""
    check = Mock(return_value=ConservationReport())
    monkeypatch.setattr(command, "check", check)
    options = ["--client", "security.protocol=SASL_SSL", "--client", "sasl.password=a=b"]
    command.main([*BROKERS, *options, "--ranges", "0:0-0"])
    assert check.call_args.args[0] == {
        "bootstrap.servers": "broker:9092", "security.protocol": "SASL_SSL", "sasl.password": "a=b",
    }  # fmt: skip


def test_brokers_may_be_those_of_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Airflow's connection."""
    monkeypatch.setenv("AIRFLOW_CONN_KAFKA_STACKLENS", '{"conn_type": "kafka", "extra": {"bootstrap.servers": "b:1"}}')
    check = Mock(return_value=ConservationReport())
    monkeypatch.setattr(command, "check", check)
    command.main(["--connection", "--ranges", "0:0-0"])
    assert check.call_args.args[0]["bootstrap.servers"] == "b:1"


def test_missing_connection_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names what is missing."""
    monkeypatch.setenv("KAFKA_CONN_ID", "no_such_connection")
    monkeypatch.setattr("sys.argv", ["check", "--connection", "--all"])
    with pytest.raises(SystemExit) as ended:
        command.run()
    assert "no_such_connection" in str(ended.value)


@pytest.mark.parametrize("text", ["2024-01-15T10:00:00Z", "2024-01-15T10:00:00", "2024-01-15T11:00:00+01:00"])
def test_time_without_a_zone_is_utc(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the command is run."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert command.parse_time(text) == 1_705_312_800_000
    finally:
        monkeypatch.undo()
        time.tzset()


def test_refusal_of_kafka_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic that does not exist, brokers that do not answer: no traceback."""
    refused = KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    monkeypatch.setattr(command, "main", Mock(side_effect=refused))
    with pytest.raises(SystemExit) as ended:
        command.run()
    assert str(ended.value) == "Kafka: Broker: Unknown topic or partition"
