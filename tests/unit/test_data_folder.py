"""The data folder: closed to other users, and without links in it."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import pytest

from perdure import wiring
from perdure.domain.errors import Unavailable
from perdure.settings import Settings
from perdure.store.data_folder import OURS, open_file, prepare_folder
from perdure.store.master_key import NEXT, make_key_file, read_key_files, stage_key
from perdure.wiring import open_parts


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_a_new_data_folder_and_all_files_in_it_are_only_their_owners(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with open_parts(Settings(data=str(tmp_path / "deep" / "data"))):
            assert mode(tmp_path / "deep" / "data") == 0o700
            files = list((tmp_path / "deep" / "data").iterdir())
            assert {file.name for file in files} >= {"lock", "master.key", "perdure.db", "perdure.db-wal"}
            assert {mode(file) for file in files} == {0o600}
    finally:
        os.umask(before)


async def test_an_older_data_folder_that_others_could_read_is_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(data=str(tmp_path))
    async with open_parts(settings):
        pass
    tmp_path.chmod(0o755)
    for name in ("lock", "master.key", "perdure.db"):
        (tmp_path / name).chmod(0o644)
    async with open_parts(settings):
        assert mode(tmp_path) == 0o700
        assert {mode(file) for file in tmp_path.iterdir()} == {0o600}
    assert "master.key (mode 0644), now only its owner can" in caplog.text


@pytest.mark.parametrize(
    ("bits", "can"), [(0o755, "enter"), (0o750, "enter"), (0o770, "change"), (0o777, "change")]
)
def test_a_folder_with_other_files_keeps_its_mode_and_the_log_warns(
    bits: int, can: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "notes.txt").touch()
    tmp_path.chmod(bits)
    prepare_folder(tmp_path)
    assert mode(tmp_path) == bits
    assert f"other users can {can} the data folder" in caplog.text


@pytest.mark.parametrize("name", sorted(OURS))
@pytest.mark.parametrize("target", ["a file", "nothing"])
async def test_a_link_in_the_data_folder_is_refused_and_its_target_untouched(
    name: str, target: str, tmp_path: Path
) -> None:
    data, victim = tmp_path / "data", tmp_path / "victim"
    data.mkdir(0o700)
    if target == "a file":
        victim.write_text("precious")
    (data / name).symlink_to(victim)
    with pytest.raises(Unavailable, match=f"^{name} in the data folder is a link"):
        async with open_parts(Settings(data=str(data))):
            raise AssertionError
    assert not victim.exists() if target == "nothing" else victim.read_text() == "precious"


@pytest.mark.parametrize("kind", ["a folder", "a pipe"])
def test_what_is_no_file_is_refused_and_does_not_block(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    if kind == "a folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(Unavailable, match="not a file"):
        prepare_folder(tmp_path)
    with pytest.raises(Unavailable):
        read_key_files(tmp_path)


async def test_the_data_folder_itself_may_be_a_link_to_a_folder(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir(0o700)
    link.symlink_to(real)
    async with open_parts(Settings(data=str(link))):
        assert (real / "perdure.db").exists()


def test_key_files_are_not_read_or_written_through_links(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    make_key_file(tmp_path / "data")
    (tmp_path / "data" / NEXT).symlink_to(victim)
    with pytest.raises(Unavailable, match="is a link"):
        read_key_files(tmp_path / "data")
    stage_key(tmp_path / "data", bytes(32))  # replaces the link
    assert not victim.exists()
    (tmp_path / "data" / "lock").symlink_to(victim)
    with pytest.raises(Unavailable, match="is a link"):
        open_file(tmp_path / "data" / "lock", os.O_RDWR | os.O_CREAT)


async def test_a_new_database_beside_a_master_key_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with open_parts(Settings(data=str(tmp_path))):
        assert "new and empty" not in caplog.text
    for name in ("perdure.db", "perdure.db-wal", "perdure.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    async with open_parts(Settings(data=str(tmp_path))):
        assert "the database is new and empty" in caplog.text


def test_a_folder_that_a_killed_servers_child_still_has_is_taken_once_it_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data=str(tmp_path / "data"))
    with contextlib.ExitStack() as left:
        left.enter_context(wiring.lock_folder(settings))
        waits: list[float] = []

        def wait(seconds: float) -> None:
            waits.append(seconds)
            left.close()

        monkeypatch.setattr("perdure.wiring.time.sleep", wait)
        with wiring.lock_folder(settings):
            assert len(waits) == 1


def test_a_folder_that_stays_locked_belongs_to_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data=str(tmp_path / "data"))
    monkeypatch.setattr(wiring, "LET_GO", 0.0)
    with (
        wiring.lock_folder(settings),
        pytest.raises(Unavailable, match="another Perdure server"),
        wiring.lock_folder(settings),
    ):
        pass
