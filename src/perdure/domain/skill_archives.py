"""Archives of skills: ZIP files with a SKILL.md, from anybody.

Whatever an archive says about itself may be a lie: names are checked before anything is unpacked, and no more
is unpacked than the limits allow.
"""

from __future__ import annotations

import io
import stat
import struct
import unicodedata
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from perdure.domain.errors import InvalidInput, TooLarge, Unprocessable
from perdure.domain.paths import clean_path
from perdure.domain.skill_md import MAX_SKILL_MD, SKILL_MD

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

MAX_ARCHIVE = 5 * 1000 * 1000
"""Bytes of an archive."""
MAX_FILES = 200
MAX_ENTRIES = 500
"""Entries of an archive, with folders and what is ignored."""
MAX_FILE = 1024 * 1024
MAX_TOTAL = 5 * 1024 * 1024
"""Bytes of a file, and of all files, unpacked."""
MAX_DEPTH = 8
"""Names in a path."""
MAX_PATH = 200
"""Bytes of a path."""

_BEGIN, _END, _LOCATOR_64 = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x07"
_END_SIZE, _LOCATOR_SIZE, _LONGEST_COMMENT = 22, 20, 1 << 16
_MAX_DIRECTORY = MAX_ENTRIES * (46 + 3 * 1024)
"""Bytes of the list of entries, of which each is read into memory."""
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF_8 = 0x800
_STORED, _DEFLATED = 0, 8


def read_archive(data: bytes) -> dict[str, bytes]:
    """Unpack the archive of a skill. It takes up to a second: call it in a thread.

    The SKILL.md is at the root or in a single folder, which is left out of the paths.

    Returns:
        The contents of the files, by relative path. One of them is `SKILL.md`.

    Raises:
        Unprocessable: it is not a ZIP file that can be taken; says why.
        TooLarge: it has too many files, or too large ones.
    """
    from zipfile import BadZipFile, ZipFile  # on the first upload

    if len(data) > MAX_ARCHIVE:
        raise TooLarge(f"the archive may have at most {MAX_ARCHIVE} bytes", code="skill_too_large")
    _check_frame(data)
    try:
        with ZipFile(io.BytesIO(data)) as archive:
            entries = _entries(archive, len(data))
            return _unpacked(archive, entries)
    except UnicodeDecodeError:
        raise refused("the name of an entry is not valid UTF-8") from None
    except (BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise refused(f"it is damaged: {str(error)[:200] or type(error).__name__}") from None


def check_files(files: Mapping[str, int]) -> None:
    """Check the relative paths and sizes in bytes of a skill's files. Raises Unprocessable, TooLarge."""
    if len(files) > MAX_FILES:
        raise TooLarge(f"a skill may have at most {MAX_FILES} files", code="skill_too_large")
    if SKILL_MD not in files:
        near = next((path for path in files if path.lower().endswith(SKILL_MD.lower())), None)
        hint = "" if near is None else f"; there is {near!r}"
        raise refused(f"there is no {SKILL_MD} at its root or in its only folder{hint}")
    seen: dict[str, str] = {}
    for path, size in files.items():
        _check_path(path)
        # Folders too: two files in `a/` and `A/` are in one folder on a disk that ignores case.
        for at in _with_folders(path):
            other = seen.setdefault(_plain(at), at)
            if other != at:
                raise refused(f"{other!r} and {at!r} differ only by case or by how accents are written")
        if size > (MAX_SKILL_MD if path == SKILL_MD else MAX_FILE):
            limit = MAX_SKILL_MD if path == SKILL_MD else MAX_FILE
            raise TooLarge(f"the file {path!r} may have at most {limit} bytes", code="skill_too_large")
    if sum(files.values()) > MAX_TOTAL:
        raise TooLarge(f"the files may have at most {MAX_TOTAL} bytes together", code="skill_too_large")
    folders = {folder for path in files for folder in _with_folders(path)[:-1]}
    both = next((path for path in files if path in folders), None)
    if both is not None:
        raise refused(f"{both!r} is a file and a folder")


def refused(why: str) -> Unprocessable:
    """The error for an archive that is not taken."""
    return Unprocessable(f"the skill's files cannot be taken: {why}", code="invalid_skill_archive")


def _check_frame(data: bytes) -> None:
    """Check the end of the archive, which says how much is read into memory at once."""
    if not data.startswith(_BEGIN):
        raise refused("it does not begin like a ZIP file with entries")
    at = len(data) - _END_SIZE
    if data[at : at + 4] != _END or data[-2:] != b"\0\0":
        at = data.rfind(_END, max(0, len(data) - _END_SIZE - _LONGEST_COMMENT))
    if at < 0 or at + _END_SIZE > len(data):
        raise refused("it is not a complete ZIP file")
    if data[at - _LOCATOR_SIZE : at].startswith(_LOCATOR_64):
        raise refused("it uses ZIP64, which only larger archives need")
    count, size = (
        int.from_bytes(data[at + begin : at + end], "little") for begin, end in ((10, 12), (12, 16))
    )
    if count > MAX_ENTRIES or size > _MAX_DIRECTORY:
        raise TooLarge(f"an archive may have at most {MAX_ENTRIES} entries", code="skill_too_large")


def _entries(archive: ZipFile, size: int) -> dict[str, ZipInfo]:
    """The entries of files, by their checked path without the archive's only folder.

    Args:
        size: the archive's, in bytes.
    """
    if len(archive.filelist) > MAX_ENTRIES:
        raise TooLarge(f"an archive may have at most {MAX_ENTRIES} entries", code="skill_too_large")
    if sum(info.compress_size for info in archive.filelist) > size:
        raise refused("its entries overlap, or are not as long as they say")
    found: dict[str, ZipInfo] = {}
    for info in archive.filelist:
        path = _path_of(info)
        if path is None:
            continue
        if path in found:
            raise refused(f"it has two entries {path!r}")
        found[path] = info
    top = _only_folder(found)
    entries = {path[len(top) :]: info for path, info in found.items()}
    check_files({path: info.file_size for path, info in entries.items()})
    return entries


def _path_of(info: ZipInfo) -> str | None:
    """The path of an entry that is a file; None for folders, and for what file managers add."""
    name = info.orig_filename
    shown = repr(name[:100])
    if "\0" in name or name != info.filename:
        raise refused(f"the name {shown} has characters that are not allowed")
    if not info.flag_bits & _UTF_8 and not name.isascii():
        raise refused(f"the name {shown} is not in UTF-8")
    if info.flag_bits & _ENCRYPTED:
        raise refused(f"the entry {shown} is encrypted")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if kind == stat.S_IFLNK else "neither a file nor a folder"
        raise refused(f"the entry {shown} is {what}")
    if info.compress_type not in (_STORED, _DEFLATED):
        raise refused(f"the entry {shown} is compressed in a way that is not supported: use `deflate`")
    is_folder = name.endswith("/")
    path = name.rstrip("/") if is_folder else name
    _check_path(path)
    if is_folder or kind == stat.S_IFDIR:
        if info.file_size:
            raise refused(f"the folder {shown} has a content")
        return None
    ignored = path.startswith("__MACOSX/") or path.rpartition("/")[2] == ".DS_Store"
    return None if ignored else path


def _check_path(path: str) -> None:
    try:
        clean = clean_path(f"/{path}")
    except InvalidInput as error:
        raise refused(f"the name {path[:100]!r} {error.message.removeprefix('`path` ')}") from None
    names = path.split("/")
    if not path or clean != f"/{path}" or ":" in names[0]:
        raise refused(f"the name {path[:100]!r} must be a plain relative path")
    if len(names) > MAX_DEPTH or len(path.encode()) > MAX_PATH:
        raise refused(f"the name {path[:100]!r} is longer than {MAX_PATH} bytes or {MAX_DEPTH} names")


def _plain(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _with_folders(path: str) -> list[str]:
    names = path.split("/")
    return ["/".join(names[: depth + 1]) for depth in range(len(names))]


def _only_folder(files: Mapping[str, object]) -> str:
    """The folder that all files are in, with a slash; empty if SKILL.md is at the root."""
    tops = {path.partition("/")[0] for path in files}
    top = next(iter(tops)) if len(tops) == 1 else ""
    return f"{top}/" if top and f"{top}/{SKILL_MD}" in files else ""


def _unpacked(archive: ZipFile, entries: Mapping[str, ZipInfo]) -> dict[str, bytes]:
    files, room = {}, MAX_TOTAL
    for path, info in entries.items():
        with archive.open(info) as file:
            # One byte more than it says: the end is where the checksum is compared.
            content = file.read(info.file_size + 1)
        room -= len(content)
        if len(content) != info.file_size or room < 0:
            raise refused(f"the size of {path!r} is not what the archive says")
        files[path] = content
    return files
