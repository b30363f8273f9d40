"""Ports that are free or taken."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from include.local.config import HOST, Port
from include.local.errors import StackError
from include.local.ports import is_free, require_free


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


def test_require_free_when_taken(taken: int) -> None:
    """A taken port is refused, with who has it and the variable that changes it."""
    with pytest.raises(StackError, match=rf"port {taken} for Kafka is taken by .*pid {os.getpid()}.*KAFKA_PORT="):
        require_free([Port("KAFKA_PORT", taken, "Kafka")])


def test_is_free_when_the_holder_has_gone(taken: int) -> None:
    """A port can be used again at once when its holder has closed it, connections and all."""
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
        with socket.create_connection((HOST, port)):
            server.accept()[0].close()
    assert is_free(port)
    assert not is_free(taken)
