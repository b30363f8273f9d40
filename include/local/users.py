"""The user-profile service of the local stack: the stand-in under `include/user_service/`."""

from __future__ import annotations

import sys

import requests

from include.local.config import HOST, Config
from include.local.supervision import SERVICES, Program


def program(config: Config) -> Program:
    """The stand-in as a component."""
    port = config.ports["user_service"]
    command = (sys.executable, "-m", "include.user_service", "--host", HOST, "--port", str(port.number))
    return Program("user-service", SERVICES, command, (port,))


def url(config: Config) -> str:
    """Where the stand-in listens."""
    return f"http://{HOST}:{config.port('user_service')}"


def ready(address: str) -> bool:
    """Whether the service at this address says that it is well."""
    with requests.Session() as session:
        session.trust_env = False  # no proxy between us and this machine
        try:
            return session.get(f"{address}/health", timeout=5).ok
        except requests.RequestException:
            return False
