"""Where staged files lie: who may read them, and what is said of an area that cannot be used."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from enrichment.errors import SettingsError, StagingUnavailable
from enrichment.orchestration.staging import staging_root
from enrichment.store.staging import Staging
from tests.fixtures.kafka import free_ports
from tests.fixtures.object_store import S3Server

BATCH = "batch"
CHUNK = pa.record_batch({"number": [1]})


def write(staging: Staging) -> None:
    """Stage a file."""
    with staging.write(BATCH, "events") as file:
        file.write(CHUNK)


USES = [
    pytest.param(write, id="write"),
    pytest.param(lambda staging: list(staging.read(BATCH, "events")), id="read"),
    pytest.param(lambda staging: staging.remove(BATCH), id="remove"),
]
Use = Callable[[Staging], object]


def mode(path: Path) -> int:
    """The permissions of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def _generous_umask() -> Iterator[None]:
    """A process whose new files anybody may read and write."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_generous_umask")
@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
def test_staged_files_are_their_owners_alone(tmp_path: Path, *, exists: bool) -> None:
    """Messages stand in them: files and folders have no permissions for others, whatever the umask, even if the folder
    was there and open to all."""
    root = tmp_path / "parent" / "staging"
    if exists:
        (root / BATCH).mkdir(parents=True)
        assert (mode(root), mode(root / BATCH)) == (0o777, 0o777)
    staging = Staging(root)
    with staging.write(BATCH, "events") as file:
        file.write(CHUNK)
        assert [mode(path) for path in (root / BATCH).iterdir()] == [0o600]
    assert [mode(path) for path in (root, root / BATCH, root / BATCH / "events.arrow")] == [0o700, 0o700, 0o600]


def test_place_for_everybody_stays_one(tmp_path: Path) -> None:
    """A root like /tmp keeps its permissions; the batch's folder in it is private."""
    tmp_path.chmod(0o1777)
    write(Staging(tmp_path))
    assert (mode(tmp_path), mode(tmp_path / BATCH)) == (0o1777, 0o700)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("foreign", ["staging", f"staging/{BATCH}"])
def test_folder_of_another_user_is_refused(
    tmp_path: Path, use: Use, foreign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else made the folder first, as anybody can below /tmp: nothing is written there, read or removed."""
    write(Staging(tmp_path / "staging"))
    owners = {tmp_path / foreign: os.geteuid() + 1}
    owned_by(owners, monkeypatch)
    with pytest.raises(SettingsError, match=rf"^ENRICHMENT_STAGING_URL=.*{foreign} belongs to user {os.geteuid() + 1}"):
        use(Staging(tmp_path / "staging"))
    assert (tmp_path / "staging" / BATCH / "events.arrow").exists()


def owned_by(owners: dict[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files belong to other users, without being allowed to give them away."""
    stat_of = Path.stat

    def pretend(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = stat_of(path, follow_symlinks=follow_symlinks)
        return os.stat_result([*found[:4], owners.get(path, found.st_uid), *found[5:]])

    monkeypatch.setattr(Path, "stat", pretend)
    monkeypatch.setattr(Path, "lstat", lambda path: pretend(path, follow_symlinks=False))


@pytest.mark.parametrize("use", USES)
def test_link_that_another_user_laid_is_refused(tmp_path: Path, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to a folder of our own: what is in that folder is neither overwritten nor removed."""
    write(Staging(tmp_path / "ours"))
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    stat_of = Path.lstat

    def pretend(path: Path) -> os.stat_result:
        found = stat_of(path)
        return os.stat_result([*found[:4], os.geteuid() + 1, *found[5:]]) if path.name == "link" else found

    monkeypatch.setattr(Path, "lstat", pretend)
    with pytest.raises(SettingsError, match="belongs to user"):
        use(Staging(tmp_path / "link"))
    assert (tmp_path / "ours" / BATCH / "events.arrow").exists()


def test_root_of_the_administrator_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume that is mounted for the workers belongs to root, and they may write to it."""
    (tmp_path / "volume").mkdir(mode=0o777)
    (tmp_path / "volume").chmod(0o777)
    owned_by({tmp_path / "volume": 0}, monkeypatch)
    write(Staging(tmp_path / "volume"))
    assert mode(tmp_path / "volume" / BATCH) == 0o700


@pytest.mark.parametrize("use", USES)
def test_root_that_is_a_file_is_refused(tmp_path: Path, use: Use) -> None:
    """The setting is named, and the file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"^ENRICHMENT_STAGING_URL=.*/file"):
        use(Staging(tmp_path / "file"))


@pytest.mark.parametrize("use", USES)
def test_bucket_that_is_missing_is_refused(object_store: S3Server, s3_url: str, use: Use) -> None:
    """A bucket is not made by us, and files that are missing for want of it are no reason to clear a task."""
    bucket = s3_url.split("@")[1].split("/", maxsplit=1)[0]
    object_store.client().delete_bucket(Bucket=bucket)
    with pytest.raises(SettingsError, match=rf"^ENRICHMENT_STAGING_URL=s3://.*{bucket}.*bucket does not exist"):
        use(Staging(staging_root(s3_url)))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("wrong", [{"password": "another-secret"}, {"login": "another-user"}], ids=["secret", "user"])
def test_wrong_credentials_are_refused(
    object_store: S3Server, s3_url: str, use: Use, wrong: dict[str, str], request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What the store says, with the name of the setting."""
    conn_id = f"wrong_{abs(hash(request.node.name))}"
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", object_store.connection(**wrong))
    with pytest.raises(SettingsError, match=r"^ENRICHMENT_STAGING_URL=s3://"):
        use(Staging(staging_root(s3_url.replace("staging_s3", conn_id))))


@pytest.mark.parametrize("use", USES)
def test_store_that_does_not_answer_is_tried_again(
    object_store: S3Server, use: Use, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens there: the setting is named, and the task may be tried again."""
    conn_id = f"silent_{abs(hash(request.node.name))}"
    extra = {"endpoint_url": f"http://127.0.0.1:{free_ports(1)[0]}", "config_kwargs": {"retries": {"max_attempts": 0}}}
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", object_store.connection(extra=extra))
    with pytest.raises(StagingUnavailable, match=r"^ENRICHMENT_STAGING_URL=s3://.*(connect|refused)"):
        use(Staging(staging_root(f"s3://{conn_id}@bucket/staging")))


def test_disk_that_is_full_is_tried_again(tmp_path: Path) -> None:
    """A disk without space: the setting is named, the task may be tried again, and nothing is left of the file."""
    if not Path("/dev/full").exists():
        pytest.skip("this machine has no /dev/full")

    def fill() -> None:
        with Staging(tmp_path).write(BATCH, "events") as file:
            [unfinished] = (tmp_path / BATCH).iterdir()
            assert unfinished.suffix == ".part"
            with Path("/dev/full").open("wb") as full:  # what is written goes where there is no space
                os.dup2(full.fileno(), file._sink.fileno())
            for _ in range(3):
                file.write(pa.record_batch({"text": ["x" * 1_000_000]}))

    with pytest.raises(StagingUnavailable, match=r"^ENRICHMENT_STAGING_URL=.*No space left"):
        fill()
    assert list((tmp_path / BATCH).iterdir()) == []
