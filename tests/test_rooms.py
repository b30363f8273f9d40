"""The rooms of `plugins/enrichment`: which of them may know of which."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from enrichment.enrichers import ENRICHERS

ROOT = Path(__file__).parents[1] / "plugins"
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
           for path in (ROOT / "enrichment").rglob("*.py")}  # fmt: skip


def room_of(module: str) -> str:
    """`kafka` of `enrichment.kafka.sink`; the packages of the enrichers are rooms of their own."""
    _, *parts = module.split(".")
    return ".".join(parts[:2]) if parts[:1] == ["enrichers"] and len(parts) > 2 else "".join(parts[:1])


def imports_of(module: str) -> Iterator[str]:
    """The modules that it imports, within functions too; what only type checkers read is left out."""
    tree = ast.parse(MODULES[module].read_text())
    unread = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in unread:
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                if whole in MODULES or node.module in MODULES:
                    yield whole if whole in MODULES else node.module


@cache
def arrows() -> dict[str, set[str]]:
    """Which rooms each room imports from."""
    found: dict[str, set[str]] = defaultdict(set)
    for module in MODULES:
        found[room_of(module)] |= {room_of(imported) for imported in imports_of(module)} - {room_of(module), ""}
    return found


def test_rooms_have_no_circle() -> None:
    """There is an order in which each room imports only from those before it."""
    assert len(list(TopologicalSorter(arrows()).static_order())) > 20  # raises `CycleError` with the circle


@pytest.mark.parametrize("companion", ["replay", "repair", "rollup", "housekeeping", "orchestration", "conservation"])
def test_centre_knows_no_companion(companion: str) -> None:
    """Live draining can be read and tried without them."""
    reached, left = set(), {"batches"}
    while left:
        room = left.pop()
        reached.add(room)
        left |= arrows()[room] - reached
    assert companion not in reached


def test_centre_writes_dead_letters_and_reads_none() -> None:
    """What a redrive needs is handed in."""
    known = {imported for module in MODULES if room_of(module) == "batches" for imported in imports_of(module)}
    assert {module for module in known if room_of(module) == "dead_letters"} == {"enrichment.dead_letters.writer"}


def test_no_two_public_classes_share_a_name() -> None:
    """Whoever reads a name knows which one is meant."""
    names = [
        node.name
        for path in MODULES.values()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert sorted(name for name, count in Counter(names).items() if count > 1) == []


def test_no_module_is_longer_than_anybody_reads() -> None:
    """What has grown beyond this has two subjects."""
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > 300} == {}


# A room of their own, or a promise: the DAG that refreshes the geo database is about that, and the demonstration's data
# are business tables.
NAMES_ENRICHMENTS = {"enrichment.enrichers", "enrichment.orchestration.geoip", "enrichment.store.__main__"}


def test_enrichments_are_named_in_their_packages_only() -> None:
    """Everywhere else they follow from the declarations: no name, attribute or text of the code is one of theirs."""
    packages = tuple(f"enrichment.enrichers.{e.name}" for e in ENRICHERS)
    words = {word for e in ENRICHERS for word in (e.name, e.source, e.table, *e.reasons, *e.output_columns)}
    found = {
        (module, word)
        for module, path in MODULES.items()
        if module not in NAMES_ENRICHMENTS and not module.startswith(packages)
        for node in ast.walk(ast.parse(path.read_text()))
        for word in (getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "value", None))
        if isinstance(word, str) and word in words
    }
    assert found == set()
