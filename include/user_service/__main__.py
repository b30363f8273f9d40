"""`python -m include.user_service`: serve until SIGTERM or SIGINT, finish what is being answered, end with 0."""

from __future__ import annotations

import argparse
import signal
import sys

import uvicorn

GRACE_SECONDS = 5


def main() -> int:
    """Parse the command line and serve. Returns 1 when a variable is wrong; a taken port is uvicorn's to report."""
    parser = argparse.ArgumentParser(prog="python -m include.user_service", description="user profiles for local runs")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8099)
    arguments = parser.parse_args()
    try:
        from include.user_service.app import app
    except ValueError as error:
        print(f"user service: {error}", file=sys.stderr)
        return 1
    config = uvicorn.Config(
        app,
        host=arguments.host,
        port=arguments.port,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
        lifespan="off",
    )
    # uvicorn raises the signal again once it has shut down; the default handler would make that a death by signal.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sys.exit(0))
    uvicorn.Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
