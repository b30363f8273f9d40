"""A connection's options that a client does not take, named before anything is done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from enrichment.errors import SettingsError
from enrichment.kafka.clients import Clients
from enrichment.settings import load

NOBODY = {"bootstrap.servers": "127.0.0.1:1"}


def clients(**options: Any) -> Clients:
    """Clients of a connection with these options, `_` for `.`."""
    return Clients({**NOBODY, **{name.replace("_", "."): value for name, value in options.items()}}, load().kafka)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ({"acks": "1"}, "`acks` must be set to `all`"),
        ({"max_in_flight": 10}, "`max.in.flight` must be set <= 5"),
        ({"retries": 0}, "`retries` must be set >= 1"),
        ({"no_such": "option"}, 'No such configuration property: "no.such"'),
        ({"sasl_mechanism": "NONE", "security_protocol": "SASL_SSL"}, "Unsupported SASL mechanism: NONE"),
        ({"security_protocol": "SSL", "ssl_ca_location": "/nowhere"}, "ssl.ca.location failed"),
        ({"socket_timeout_ms": [1]}, 'Invalid value for configuration property "socket.timeout.ms"'),
        ({"client_rack": {"a": 1}, "acks": "0"}, "`acks` must be set to `all`"),
    ],
)
def test_option_with_which_nothing_can_be_published_is_a_wrong_setting(option: dict[str, Any], why: str) -> None:
    """It names connection and option; another try would end the same."""
    with pytest.raises(SettingsError) as refused:
        clients(**option).check_options()
    assert "the connection KAFKA_CONN_ID=kafka_stacklens: " in str(refused.value)
    assert why in str(refused.value)


def test_options_of_consumers_are_none_of_a_publisher() -> None:
    """What `group.id` and its like say is the settings' business."""
    clients(group_id="own", isolation_level="read_uncommitted", enable_auto_commit=True).check_options()


def entered(make: Callable[[], AbstractContextManager[object]]) -> None:
    """Make the client of a context."""
    with make():
        pass


def test_every_client_says_so() -> None:
    """Whichever is made first."""
    wrong = clients(no_such="option")
    for make in (wrong.admin, lambda: entered(wrong.offsets_reader), lambda: entered(wrong.drain_reader)):
        with pytest.raises(SettingsError, match="No such configuration property"):
            make()
