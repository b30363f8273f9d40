"""What README and the guides say of settings, reasons, commands and files is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from enrichment.dead_letters.reasons import all_reasons
from enrichment.enrichers.registry import REGISTRY
from enrichment.messages import HEADER_ATTEMPTS, HEADER_ORIGIN, DeadLetter, MessageOrigin
from enrichment.settings import rooms
from enrichment.variables import variable

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONFIGURE = (ROOT / "docs" / "configure.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Under a prefix of the settings, but read by others: the local stack, and the loader of statements.
NOT_SETTINGS = {"KAFKA_BOOTSTRAP_SERVERS", "KAFKA_PORT", "USER_SERVICE_URL", "USER_SERVICE_PORT", "ENRICHMENT_SQL_DIR"}
FOLDERS = ("benchmarks", "config", "dags", "docs", "include", "plugins", "tests")


def table(text: str, head: str) -> list[list[str]]:
    """The rows of the table whose first line is `head`, cell by cell."""
    _, _, rest = text.partition(f"{head}\n")
    lines = rest.split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def code(text: str) -> list[str]:
    """What stands in single backticks, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def shown(default: object) -> str:
    """A default as the table has it: nothing where nothing is set."""
    return f"`{default}`" if default not in ("", ()) else ""


def test_every_setting_is_in_the_table_and_no_other() -> None:
    """The configuration table has each variable, its default and what it means, in the order of the settings."""
    assert table(CONFIGURE, "| variable | default | meaning |") == [
        [f"`{variable(room, name)}`", shown(field.default), field.description]
        for room in rooms().values()
        for name, field in room.model_fields.items()
    ]


def test_every_variable_named_anywhere_is_a_setting() -> None:
    """A variable that a document names under one of the settings' prefixes exists."""
    prefixes = "|".join(sorted({str(room.model_config["env_prefix"]) for room in rooms().values()}))
    known = {variable(room, name) for room in rooms().values() for name in room.model_fields} | NOT_SETTINGS
    for document in DOCUMENTS:
        named = {word for word in code(document.read_text()) if re.fullmatch(rf"({prefixes})[A-Z0-9_]+", word)}
        assert named - known == set(), document


def test_every_reason_is_in_the_table_and_no_other() -> None:
    """The vocabulary is whole, in the order of the code, each word with when it is used and what comes of it."""
    rows = table(README, "| reason | when | outcome |")
    assert [row[0] for row in rows] == [f"`{reason}`" for reason in all_reasons()]
    assert all(len(row) == 3 and all(row) for row in rows)


def test_every_connection_is_in_the_table() -> None:
    """The connections are those that the settings name."""
    defaults = {field.default for room in rooms().values() for n, field in room.model_fields.items() if "conn_id" in n}
    assert {row[0].strip("`") for row in table(CONFIGURE, "| connection | type | what it holds |")} == defaults


def test_contracts_are_complete() -> None:
    """Each field of the output and of a dead letter is named, and each header."""
    (example,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    assert tuple(re.findall(r'"(\w+)":', example)) == REGISTRY.output_columns
    named = set(code(README))
    assert {
        *DeadLetter.__struct_fields__,
        *MessageOrigin.__struct_fields__,
        HEADER_ORIGIN,
        HEADER_ATTEMPTS,
    } - named == set()


def test_every_make_target_exists() -> None:
    """Each `make <target>` that a document names is in the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE))
    assert {"run", "test"} <= named
    assert named - targets == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_named_file_exists(document: Path) -> None:
    """Each path of the repository in backticks, and each link, leads somewhere."""
    text = document.read_text()
    paths = {word for word in code(text) if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]+", word)}
    assert [path for path in paths if not (ROOT / path).exists()] == []
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
