"""Who works: the thread that a measurement runs in, the other threads of its process (the Kafka client's own, and what
the pipeline does ahead), the broker.

Two cores have two seconds for each second that passes: what a message needs of both bounds how fast a pass can become,
whatever it does side by side.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import psutil


class Used(NamedTuple):
    """Processor time in seconds."""

    thread: float = 0.0
    others: float = 0.0
    broker: float = 0.0

    def plus(self, more: Used) -> Used:
        """The sum of both, part by part."""
        return Used(*(one + other for one, other in zip(self, more, strict=True)))

    def minus(self, less: Used) -> Used:
        """The difference of both, part by part."""
        return Used(*(one - other for one, other in zip(self, less, strict=True)))


def used(broker_pid: int) -> Used:
    """By the calling thread, by the other threads of its process, and by the broker, since each of them started."""
    thread, broker = time.thread_time(), psutil.Process(broker_pid).cpu_times()
    return Used(thread, time.process_time() - thread, broker.user + broker.system)
