"""What the hot loops over messages and rollups have in common."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_gc() -> Iterator[None]:
    """No garbage collection within: the hot loops make many objects and no cycles. In a large process, such as the API
    server, one takes a quarter of a second."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
