"""The process that reads topics for the page: questions in, answers out, over sockets that it is given by number.

It has the lowest priority, and ends when its standard input does: with the process that started it, however that ends.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from multiprocessing.connection import Connection
from threading import Thread
from typing import NoReturn

LOWEST = 19


def main() -> NoReturn:
    """Serve until the standard input ends."""
    os.nice(LOWEST)  # before anything has to be imported
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it is meant for the server
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    from enrichment.inspection.serving import Server

    for number in sys.argv[1:]:
        Thread(target=Server(Connection(int(number))).serve, daemon=True).start()
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
