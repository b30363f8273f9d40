"""An outage and its repair through the real scheduler."""

from __future__ import annotations

from typing import LiteralString

import psycopg
import pytest

from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import Airflow, Stream, eventually
from tests.fixtures.user_service import UserService

pytestmark = pytest.mark.timeout(600)
MESSAGES = 300


def test_outage_is_published_partial_and_repaired_exactly_once(airflow: Airflow, stream: Stream) -> None:
    """The user service is down: the batches are published partial and pending, and nothing is dead. It comes back: the
    repair corrects each message once, closes what was pending, and has nothing to do when it is run again."""
    service, repair = UserService(stream.stack.user_service_url), airflow.of("stacklens_repair")

    def pending(state: str) -> list[str]:
        with psycopg.connect(stream.stack.stacklens_dsn) as connection:
            rows = connection.execute("SELECT batch_id FROM enrichment_pending WHERE state = %s", (state,)).fetchall()
        return [batch_id for (batch_id,) in rows]

    def execute(statement: LiteralString) -> None:
        with psycopg.connect(stream.stack.stacklens_dsn) as connection:
            connection.execute(statement)

    airflow.run()
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    before = stream.check()
    service.set_fault(status=503)
    try:
        stream.produce([message(n, user_id=f"outage-{n}") for n in range(MESSAGES)])
        airflow.run()
        eventually(lambda: stream.lag() == 0, "the end of the backlog")
        down = stream.check()
        assert down.ok, down.summary()
        assert (down.dead, down.analytics) == (before.dead, before.analytics + MESSAGES)
        run_ids = {batch_id.split("/")[1] for batch_id in pending("open")}
        assert sum(job.messages_partial or 0 for run_id in run_ids for job in stream.jobs(run_id)) == MESSAGES
        # Not due for the scheduled repair, which may begin at any time, but for who names it.
        execute("UPDATE enrichment_pending SET next_attempt_at = now() + interval '1 hour'")
    finally:
        service.end_fault()
    # What the guide says of those who do not want to wait for the breaker.
    execute("DELETE FROM circuit_breakers")
    waiting = pending("open")
    for batch_id in waiting:
        repair.run(batch_id=batch_id)  # by hand it only counts unless told otherwise
    assert stream.check().corrections == 0
    for batch_id in waiting:
        repair.run(batch_id=batch_id, dry_run=False)
    assert pending("open") == []
    after = stream.check()
    assert after.ok, after.summary()
    assert (after.corrections, after.analytics, after.dead) == (MESSAGES, down.analytics, down.dead)
    again = repair.run(dry_run=False)
    assert repair.tasks(again)["batch.correct"]["state"] == "skipped"
    repair.clear(repair.run(dry_run=False))
    assert stream.check().corrections == MESSAGES
