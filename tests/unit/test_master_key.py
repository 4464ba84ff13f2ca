"""The key files: written atomically, readable by their owner only, and both tried during a rotation."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from perdure.domain.errors import Unavailable
from perdure.store.master_key import (
    FILE,
    NEXT,
    hold_key_files,
    key_id,
    make_key_file,
    new_master_key,
    parse_master_key,
    promote_key,
    read_key_files,
    stage_key,
)

KEY = bytes(range(32))


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize(
    "text", [KEY.hex(), KEY.hex().upper(), base64.b64encode(KEY).decode(), f"  {KEY.hex()}\n"]
)
def test_a_key_is_32_bytes_in_base64_or_hex(text: str) -> None:
    assert parse_master_key(text) == KEY


@pytest.mark.parametrize(
    "text",
    ["", "x", KEY.hex()[:-1], KEY.hex() + "0", "g" * 64, base64.b64encode(KEY[:-1]).decode(), "é" * 32],
)
def test_anything_else_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(Unavailable, match="32 bytes") as refused:
        parse_master_key(text)
    assert len(text) < 2 or text not in refused.value.message


def test_the_name_of_a_key_identifies_it_and_is_not_part_of_it() -> None:
    assert key_id(KEY) == key_id(bytes(KEY)) != key_id(KEY[::-1])
    assert key_id(KEY) not in KEY.hex()


def test_the_file_is_created_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    make_key_file(folder)
    (key,) = read_key_files(folder)
    make_key_file(folder)
    assert read_key_files(folder) == [key]
    assert stat.S_IMODE((folder / FILE).stat().st_mode) == 0o600
    assert names_in(folder) == [FILE]


def test_a_staged_key_is_kept_beside_the_current_one_until_the_database_uses_it(tmp_path: Path) -> None:
    make_key_file(tmp_path)
    (old,), new = read_key_files(tmp_path), new_master_key()
    stage_key(tmp_path, new)
    assert read_key_files(tmp_path) == [old, new]
    assert stat.S_IMODE((tmp_path / NEXT).stat().st_mode) == 0o600
    promote_key(tmp_path, key_id(old))
    promote_key(tmp_path, None)
    assert read_key_files(tmp_path) == [old, new]
    for _ in range(2):
        promote_key(tmp_path, key_id(new))
        assert read_key_files(tmp_path) == [new]


def test_a_half_written_draft_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "master.key.draft").write_text("half a k")
    make_key_file(tmp_path)
    assert len(read_key_files(tmp_path)) == 1


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 44])
def test_a_file_without_a_valid_key_is_an_error_and_is_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(Unavailable, match="32 bytes"):
        read_key_files(tmp_path)
    make_key_file(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content


def test_only_one_process_at_a_time_changes_the_files(tmp_path: Path) -> None:
    taken = pytest.raises(Unavailable, match="another process is rotating")
    with hold_key_files(tmp_path), taken, hold_key_files(tmp_path, wait=False):
        raise AssertionError
    with hold_key_files(tmp_path, wait=False):
        assert names_in(tmp_path) == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(Unavailable, match=r"master\.key in the data folder is not a file"):
        read_key_files(tmp_path)
    with pytest.raises(Unavailable, match=r"No such file"), hold_key_files(tmp_path / "missing"):
        raise AssertionError
