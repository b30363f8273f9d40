"""Which releases of the client are read by their pointers."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

from enrichment.kafka.librdkafka import TESTED

ROOT = Path(__file__).parents[3]


def test_required_release_is_one_that_was_tried() -> None:
    """Whoever raises it tries the access first."""
    [pinned] = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("confluent-k")]
    assert pinned.removeprefix("confluent-kafka==") in TESTED


def test_other_release_is_refused_in_one_line(tmp_path: Path) -> None:
    """Before its memory is touched."""
    (tmp_path / "confluent_kafka-9.9.9.dist-info").mkdir()
    (tmp_path / "confluent_kafka-9.9.9.dist-info" / "METADATA").write_text("Name: confluent-kafka\nVersion: 9.9.9\n")
    program = "import enrichment.kafka.librdkafka"
    ended = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": f"{tmp_path}:{ROOT / 'plugins'}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "confluent-kafka 9.9.9 was never tried with the access to its memory" in ended.stderr.splitlines()[-1]
    assert importlib.metadata.version("confluent-kafka") in TESTED
