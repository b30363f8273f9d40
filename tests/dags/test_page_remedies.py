"""What the page says helps, against the DAGs as they are: a form that is filled in is one that exists."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from airflow.dag_processing.dagbag import DagBag
from msgspec.structs import replace

from enrichment.health.now import OpenBreaker, recent_of
from enrichment.health.remedies import RUN_NOW, Remedy, of_breach, of_breaker, repair_of
from enrichment.rollup.rollup import Rollup
from enrichment.rollup.service_levels import Breach, Level
from enrichment.settings import load
from tests.conftest import REPOSITORY
from tests.fixtures.params import run_params

DAGS = DagBag(dag_folder=str(REPOSITORY / "dags")).dags
PAGE = REPOSITORY / "include" / "page"
AT = datetime(2026, 1, 15, 10, tzinfo=UTC)
ERRORS = {"invalid-json": 3, "user-service-error": 5}
RECENT = replace(recent_of(Rollup(), load()), error_rate=0.3, dead_letter_rate=0.1, errors_by_reason=ERRORS)

REMEDIES: list[Remedy] = [
    RUN_NOW,
    repair_of("geo-ip"),
    *of_breaker(OpenBreaker("user-profile http://users", "open")),
    *(remedy for level in Level for remedy in of_breach(Breach(level, 1.0, 0.5), RECENT, AT)),
    *of_breach(Breach("keyless-user", 1.0, 0.5), RECENT, AT),
]


@pytest.mark.parametrize(
    "remedy", [r for r in REMEDIES if r.dag_id], ids=lambda remedy: f"{remedy.dag_id}-{remedy.tab}"
)
def test_form_can_be_filled_in(remedy: Remedy) -> None:
    """The DAG exists, has these parameters and takes these values; what publishes again is a dry run at first."""
    own = set(DAGS[remedy.dag_id].params)
    assert set(remedy.conf) <= own
    is_live = remedy.dag_id == RUN_NOW.dag_id
    assert run_params(DAGS[remedy.dag_id], remedy.conf)["dry_run"] is not is_live


def test_tabs_are_those_of_the_page() -> None:
    """A link leads to a tab that there is."""
    there = set(re.findall(r'^  "?([a-z-]+)"?: \{.*load:', (PAGE / "main.js").read_text(), re.MULTILINE))
    assert {remedy.tab.partition("?")[0] for remedy in REMEDIES if remedy.tab} <= there


def test_dags_that_the_page_names_exist() -> None:
    """In its scripts, too."""
    named = {dag_id for path in PAGE.glob("*.js") for dag_id in re.findall(r"\bstacklens_[a-z_]+", path.read_text())}
    assert named <= set(DAGS)
