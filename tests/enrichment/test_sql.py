"""Loading statements by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from enrichment import sql


def test_load_gives_the_text_when_named_with_or_without_suffix() -> None:
    """A statement is named by its path under include/sql; the suffix is optional."""
    assert "CREATE TABLE" in sql.load("schema")
    assert sql.load("schema.sql") == sql.load("schema")


def test_load_names_the_file_when_it_is_missing() -> None:
    """A statement that is not there is reported with the path that was tried."""
    with pytest.raises(FileNotFoundError, match=r"include/sql/no/such\.sql"):
        sql.load("no/such")


def test_load_reads_another_folder_when_the_environment_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENRICHMENT_SQL_DIR replaces the repository's folder."""
    (tmp_path / "one.sql").write_text("SELECT 1")
    monkeypatch.setenv("ENRICHMENT_SQL_DIR", str(tmp_path))
    assert sql.load("one") == "SELECT 1"
