"""Whatever is killed, run again or run at once: each partial message is corrected once."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from enrichment.batch import Batch
from enrichment.errors import OffsetsMoved, PublishRefused
from tests.fixtures.partials import (
    corrected_once,
    in_process,
    planned,
    repair_all,
    run,
    states,
)
from tests.fixtures.pipeline import Pipeline


@pytest.mark.parametrize("where", ["mid-transaction", "before-commit", "after-offsets", "after-commit"])
def test_killed_repair_is_completed_by_its_retry(quick: Pipeline, partial: Batch, where: str) -> None:
    """`kill -9` at any point of the publication: the retry, of the same pass or of a later run, corrects each message
    once."""
    one = planned(quick, partial)
    assert one is not None
    assert in_process(quick, one, where) == -signal.SIGKILL
    assert run(quick, one)[0] is (where != "after-commit")
    repair_all(quick, partial)
    corrected_once(quick, partial)
    assert states(quick)[0][1] == "repaired"


def test_pass_that_is_run_again_publishes_nothing(quick: Pipeline, partial: Batch) -> None:
    """A cleared task of a pass that is done leaves everything as it is."""
    one = planned(quick, partial)
    assert one is not None
    run(quick, one)
    before = states(quick)
    assert run(quick, one)[0] is False
    assert states(quick) == before
    corrected_once(quick, partial)


def test_two_repairs_at_once_correct_once(quick: Pipeline, partial: Batch) -> None:
    """Whoever comes later fences the other, or finds it done."""
    one = planned(quick, partial)
    assert one is not None

    def outcome(number: int) -> str:
        own = Pipeline(**{n: getattr(quick, n) for n in ("bootstrap_servers", "dsn", "user_service_url")},
                       folder=quick.folder / str(number), environment=quick.environment)  # fmt: skip
        try:
            return "produced" if run(own, one)[0] else "done before"
        except (OffsetsMoved, PublishRefused) as refused:
            return type(refused).__name__

    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(outcome, range(3)))
    assert outcomes.count("produced") <= 1
    repair_all(quick, partial)
    corrected_once(quick, partial)
