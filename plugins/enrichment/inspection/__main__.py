"""The process that reads topics for the page: questions in, answers out, over sockets that it is given by number.

It has the lowest priority, and ends when its standard input does: with the process that started it, however that ends.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import NoReturn

LOWEST = 19
AUTOGROUP = Path("/proc/self/autogroup")
TRIES = 10


def give_way() -> None:
    """Let everything else on the machine go first.

    Linux may share out processor time by session and then by priority within each: so this one has a session of its
    own, whose priority is the lowest, too.
    """
    os.nice(LOWEST)
    os.setsid()
    for _ in range(TRIES):
        try:
            AUTOGROUP.write_text(str(LOWEST))
        except BlockingIOError:  # the kernel takes one in a tenth of a second, of all users but root
            time.sleep(0.1)
        except OSError:  # another system, or a kernel that shares out in another way
            return
        else:
            return


def main() -> NoReturn:
    """Serve until the standard input ends."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    from enrichment.inspection.serving import Server

    give_way()  # not before: on a machine that is busy, what is imported would take it most of a minute
    for number in sys.argv[1:]:
        Thread(target=Server(Connection(int(number))).serve, daemon=True).start()
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
