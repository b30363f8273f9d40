"""The requirements files and constraints.txt: whatever is installed of them fits together."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("requirements*.txt"))
CONSTRAINTS = ROOT / "constraints.txt"
UNREACHABLE = re.compile(r"[Ff]ailed to fetch|error sending request|dns error|timed out|[Cc]onnection refused")
# Not installed by us, but named in the README as what may be installed beside.
BESIDE = "apache-airflow-providers-fab==3.10.2"


def pins(file: Path) -> set[str]:
    """The requirements of a file, without what is after a marker."""
    lines = (line.partition(" ;")[0].strip() for line in file.read_text().splitlines())
    return {re.sub(r"\[.*\]", "", line) for line in lines if line and not line.startswith(("#", "-r "))}


def uv(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """The environment's own uv; skips the test where it needs a registry and finds none."""
    command = [str(Path(sys.executable).with_name("uv")), "--quiet", *arguments]
    ended = subprocess.run(command, input=given, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode and UNREACHABLE.search(ended.stderr):
        pytest.skip(f"no package registry can be reached: {ended.stderr.strip().splitlines()[-1]}")
    return ended


def resolve(*sources: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Resolve requirements for every Python that we support, with the versions of constraints.txt."""
    how = ("--universal", "--python-version", "3.11", "--no-annotate", "--no-header", "--no-emit-index-url")
    return uv("pip", "compile", *how, "--constraint", str(CONSTRAINTS), *sources, given=given)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_requirement_is_pinned_as_in_the_constraints(file: Path) -> None:
    """Each has one whole version, and constraints.txt has the same."""
    assert [pin for pin in pins(file) if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    assert pins(file) - pins(CONSTRAINTS) == set()


def test_every_file_is_one_of_the_development_environment() -> None:
    """`make setup` installs all of them and `make constraints` pins all of them: requirements-dev.txt includes each."""
    included, waiting = set[str](), ["requirements-dev.txt"]
    while waiting:
        name = waiting.pop()
        included.add(name)
        waiting += re.findall(r"^-r (\S+)$", (ROOT / name).read_text(), re.MULTILINE)
    assert included == {file.name for file in FILES}


def test_constraints_are_what_all_requirements_come_to() -> None:
    """Resolved together they need what constraints.txt has: every version, nothing more and nothing less."""
    resolved = resolve(*(file.name for file in FILES))
    assert resolved.returncode == 0, resolved.stderr
    constraints = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    assert resolved.stdout.splitlines() == constraints


@pytest.mark.parametrize("beside", ["-r requirements-s3.txt", BESIDE])
def test_what_a_deployment_adds_fits(beside: str) -> None:
    """An image has the requirements of the pipeline, and what it needs beside them."""
    resolved = resolve("requirements.txt", "requirements-celery.txt", "-", given=f"{beside}\n")
    assert resolved.returncode == 0, resolved.stderr
    assert "python-dateutil==2." in resolved.stdout


def test_what_is_installed_fits() -> None:
    """No installed package contradicts another one, as the image's `pip check` asks, too."""
    checked = uv("pip", "check", "--python", sys.executable)
    assert checked.returncode == 0, checked.stderr
