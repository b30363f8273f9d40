"""What the watch of the backlog says is the matter when a look fails."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from enrichment.errors import SettingsError
from enrichment.group import watch as module
from enrichment.group.watch import BacklogWatch
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import Backlog
from enrichment.settings import load

UNREACHABLE = KafkaError(KafkaError._TRANSPORT, "Connection refused")


class Untold:
    """In place of the watch's consumer: has an error told when it is polled, and not before."""

    def __init__(self, watch: BacklogWatch) -> None:
        self._watch = watch
        self.errors: list[KafkaError] = []

    def poll(self, _: float) -> None:
        """See `Consumer`."""
        self._watch._errors.extend(self.errors)
        self.errors.clear()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> BacklogWatch:
    """Opened; its topic is `there-is-none` at first."""
    watch = BacklogWatch(load().kafka, 1.0)
    watch.clients = Clients({"bootstrap.servers": "127.0.0.1:1"}, load().kafka)
    monkeypatch.setattr(watch, "_consumer", Untold(watch), raising=False)
    monkeypatch.setattr(watch, "_admin", None, raising=False)
    monkeypatch.setattr(module, "read_backlog", missing)
    return watch


def missing(*_: object) -> list[Backlog]:
    """A look that fails."""
    raise SettingsError("no such topic")


def test_failure_has_the_reason_of_the_brokers(watch: BacklogWatch) -> None:
    """Where a broker could not be reached meanwhile."""
    watch._consumer.errors.append(UNREACHABLE)  # type: ignore[attr-defined]
    with pytest.raises(KafkaException, match="Connection refused"):
        watch.backlog()


def test_failure_has_no_reason_of_before_the_last_good_look(
    watch: BacklogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker was not to be reached, and then it was: that is not why a later look fails."""
    watch._consumer.errors.append(UNREACHABLE)  # type: ignore[attr-defined]
    with monkeypatch.context() as well:
        well.setattr(module, "read_backlog", lambda *_: [])
        assert watch.backlog() == []
    with pytest.raises(SettingsError, match="no such topic"):
        watch.backlog()
