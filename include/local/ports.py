"""Whether the ports of a component are free, and who has them if not."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable

import psutil

from include.local.config import HOST, Port
from include.local.errors import StackError


def require_free(ports: Iterable[Port]) -> None:
    """Raise `StackError` for the first port that somebody else listens on, naming the variable that changes it."""
    for port in ports:
        if not is_free(port.number):
            raise StackError(
                f"port {port.number} for {port.component} is taken{_holder(port.number)}: "
                f"end that program or choose another port with {port.variable}=..."
            )


def is_free(number: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a server
        try:
            probe.bind((HOST, number))
        except OSError:
            return False
        return True


def _holder(number: int) -> str:
    # Asking who listens can need rights that we lack; the port is taken all the same.
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            is_listening = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (number,)
            if is_listening and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""
