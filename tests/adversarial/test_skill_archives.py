"""Archives of skills that lie, hide, escape or explode are refused before they cost anything."""

from __future__ import annotations

import io
import random
import stat
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import httpx
import pytest

from perdure.domain.errors import InvalidInput, TooLarge
from perdure.domain.skill_archives import MAX_ENTRIES, MAX_FILE, MAX_FILES, MAX_TOTAL, read_archive

SKILL = "---\nname: pdf-forms\ndescription: Fills in PDF forms.\n---\n\nList the fields.\n"


def packed(
    *entries: tuple[str | ZipInfo, bytes | str], skill: str | None = "SKILL.md", comment: bytes = b""
) -> bytes:
    """An archive with a SKILL.md at this path, and these entries."""
    body = io.BytesIO()
    with ZipFile(body, "w", ZIP_DEFLATED) as archive:
        if skill is not None:
            archive.writestr(skill, SKILL)
        for name, content in entries:
            archive.writestr(name, content)
        archive.comment = comment
    return body.getvalue()


def special(name: str, mode: int) -> ZipInfo:
    info = ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def bent(data: bytes, at: Callable[[bytes], int], new: bytes) -> bytes:
    """The archive with other bytes at a place."""
    place = at(data)
    return data[:place] + new + data[place + len(new) :]


def central(offset: int, number: int = 0) -> Callable[[bytes], int]:
    """A place in the record of an entry, in the list at the end."""

    def find(data: bytes) -> int:
        at = -1
        for _ in range(number + 1):
            at = data.index(b"PK\x01\x02", at + 1)
        return at + offset

    return find


def end(offset: int) -> Callable[[bytes], int]:
    """A place in the record at the end."""
    return lambda data: data.rindex(b"PK\x05\x06") + offset


def bomb(size: int) -> bytes:
    return b"\0" * size


def renamed(old: bytes, new: bytes) -> bytes:
    """An archive in which the name of a further file is other bytes, at both places."""
    if len(old) != len(new):
        raise AssertionError("the names must have the same length")
    return packed((old.decode(), "x")).replace(old, new)


def test_an_ordinary_archive_is_unpacked() -> None:
    files = read_archive(packed(("scripts/run.py", "print(1)\n"), ("data.bin", b"\0\xff"), ("empty", b"")))
    assert files == {
        "SKILL.md": SKILL.encode(),
        "scripts/run.py": b"print(1)\n",
        "data.bin": b"\0\xff",
        "empty": b"",
    }


def test_the_only_folder_of_an_archive_is_left_out_and_what_file_managers_add_too() -> None:
    files = read_archive(
        packed(
            ("pdf-forms/", ""),
            ("pdf-forms/notes.md", "n"),
            ("__MACOSX/pdf-forms/._notes.md", "m"),
            ("pdf-forms/.DS_Store", "d"),
            skill="pdf-forms/SKILL.md",
        )
    )
    assert set(files) == {"SKILL.md", "notes.md"}


def test_a_comment_and_names_in_utf_8_are_no_harm() -> None:
    assert "formulaire-été.md" in read_archive(packed(("formulaire-été.md", "x"), comment=b"Made by hand"))


REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "not a ZIP file": b"Hello, I am a skill." * 10,
    "no entries": b"PK\x05\x06" + b"\0" * 18,
    "the end is cut off": packed()[:-10],
    "only the beginning": packed()[:40],
    "something before the first entry": b"#!/bin/sh\n" + packed(),
    "no SKILL.md": packed(("readme.md", "x"), skill=None),
    "SKILL.md in lower case": packed(skill="skill.md"),
    "SKILL.md two folders below": packed(skill="a/b/SKILL.md"),
    "SKILL.md in one of two folders": packed(("b/x", "x"), skill="a/SKILL.md"),
    "SKILL.md in a folder beside other files": packed(("x", "x"), skill="a/SKILL.md"),
    "SKILL.md is a folder": packed(("SKILL.md/x", "x"), skill=None),
    "a parent folder": packed(("../evil", "x")),
    "a parent folder inside": packed(("a/../../evil", "x")),
    "a parent folder that stays inside": packed(("a/../b", "x")),
    "an absolute path": packed(("/etc/passwd", "x")),
    "a path of Windows": packed(("a\\b", "x")),
    "a parent folder of Windows": packed(("..\\evil", "x")),
    "a drive": packed(("C:evil", "x")),
    "a drive with a path": packed(("C:/evil", "x")),
    "a share": packed(("//server/share", "x")),
    "two slashes": packed(("a//b", "x")),
    "a dot": packed(("./a", "x")),
    "only dots": packed(("..", "x")),
    "only a slash": packed(("/", "")),
    "a name that ends with a space": packed(("a ", "x")),
    "a control character": packed(("a\nb", "x")),
    "a character that turns the text around": packed(("a\u202ecod.exe", "x")),
    "a long name": packed(("n" * 300, "x")),
    "a deep path": packed(("a/" * 12 + "b", "x")),
    "a NUL in a name": renamed(b"scripts-run", b"scripts\0run"),
    "a name that is not UTF-8": renamed(b"scripts-run", b"scripts\xffrun"),
    "a name that says it is UTF-8": bent(renamed(b"script-s", b"script\xffs"), central(8, 1), b"\0\x08"),
    "the same name twice": packed(("aaa", "x"), ("bbb", "y")).replace(b"bbb", b"aaa"),
    "names that differ by case": packed(("Run.py", "x"), ("run.py", "y")),
    "folders that differ by case": packed(("A/x", "x"), ("a/y", "y")),
    "SKILL.md in two cases": packed(("skill.md", "x")),
    "names that differ by sharp s": packed(("straße", "x"), ("STRASSE", "y")),
    "an accent that is not in normal form": packed(("e\u0301", "x")),
    "a file that is a folder, too": packed(("a", "x"), ("a/b", "y")),
    "a link": packed((special("link", stat.S_IFLNK | 0o777), "/etc/passwd")),
    "SKILL.md as a link": packed((special("SKILL.md", stat.S_IFLNK | 0o777), "/etc/passwd"), skill=None),
    "a device": packed((special("device", stat.S_IFCHR | 0o666), "")),
    "a pipe": packed((special("pipe", stat.S_IFIFO | 0o666), "")),
    "a socket": packed((special("socket", stat.S_IFSOCK | 0o666), "")),
    "a folder with a content": packed(("folder/", "hidden")),
    "an encrypted entry": bent(packed(), central(8), b"\x01\0"),
    "an entry with strong encryption": bent(packed(), central(8), b"\x41\0"),
    "an unknown compression": bent(packed(), central(10), b"\x63\0"),
    "another name in the entry": bent(packed(("aaa", "x")), lambda data: data.index(b"aaa"), b"bbb"),
    "a checksum that is wrong": bent(packed(), central(16), b"\0\0\0\0"),
    "a size that is too small": bent(packed(), central(24), struct.pack("<I", 10)),
    "a size that is too large": bent(packed(), central(24), struct.pack("<I", len(SKILL) + 10)),
    "a compressed size that is too large": bent(packed(), central(20), struct.pack("<I", 100_000)),
    "an entry that begins behind the end": bent(packed(), central(42), struct.pack("<I", 1 << 31)),
    "a list that begins elsewhere": bent(packed(), end(16), struct.pack("<I", 5)),
    "a list that is longer": bent(packed(), end(12), struct.pack("<I", 5000)),
    "the end of a ZIP64 file": packed()[:-22]
    + b"PK\x06\x06" + struct.pack("<Q", 44) + b"\0" * 44
    + b"PK\x06\x07" + b"\0" * 16
    + packed()[-22:],
    "data that is not compressed as it says": bent(packed(), lambda data: 38, b"\xff" * 20),
}  # fmt: skip


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_an_archive_that_is_not_what_it_should_be_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="the skill's files cannot be taken: "):
        read_archive(data)


def zip64_entry(size: int) -> bytes:
    """An archive whose list says, in a field of ZIP64, that SKILL.md has this many bytes."""
    plain = packed()
    at = central(0)(plain)
    name = plain[at + 46 : at + 54]
    extra = struct.pack("<HHQ", 1, 8, size)
    record = plain[at : at + 24] + b"\xff\xff\xff\xff" + plain[at + 28 : at + 30]
    record += struct.pack("<H", len(extra)) + plain[at + 32 : at + 46] + name + extra
    tail = plain[-22:-10] + struct.pack("<I", len(record)) + plain[-6:]
    return plain[:at] + record + tail


TOO_LARGE: dict[str, Callable[[], bytes]] = {
    "a file that is too large": lambda: packed(("big", bomb(MAX_FILE + 1))),
    "files that are too large together": lambda: packed(*((f"{n}", bomb(MAX_FILE)) for n in range(6))),
    "a SKILL.md that is too large": lambda: packed(("SKILL.md", SKILL + "x" * 50_000), skill=None),
    "too many files": lambda: packed(*((f"{n}", "x") for n in range(MAX_FILES))),
    "too many entries": lambda: packed(*((f"{n}/", "") for n in range(MAX_ENTRIES))),
    "a number of entries that is a lie": lambda: bent(packed(), end(10), b"\xff\xff"),
    "a list that is too long": lambda: bent(packed(), end(12), struct.pack("<I", 1 << 30)),
    "a size of ZIP64 that is a lie": lambda: zip64_entry(1 << 60),
    "more bytes than an archive may have": lambda: b"PK\x03\x04" + b"\0" * 6_000_000,
}


@pytest.mark.parametrize("data", TOO_LARGE.values(), ids=TOO_LARGE.keys())
def test_an_archive_that_is_too_large_is_refused(data: Callable[[], bytes]) -> None:
    with pytest.raises(TooLarge):
        read_archive(data())


def overlapping(count: int) -> bytes:
    """An archive in which all entries share one large content: each name is unpacked to a megabyte."""
    core = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = bomb(MAX_FILE)
    data = core.compress(content) + core.flush()
    crc = zlib.crc32(content)

    def fields(name: bytes) -> bytes:
        return struct.pack("<HHHHIIIHH", 0, 8, 0, 33, crc, len(data), len(content), len(name), 0)

    entries, records = b"", b""
    for number in range(count):
        name = b"SKILL.md" if number == 0 else b"%08d" % number
        records += b"PK\x01\x02" + struct.pack("<HH", 20, 20) + fields(name)
        records += struct.pack("<HHHII", 0, 0, 0, 0, len(entries)) + name
        entries += b"PK\x03\x04" + struct.pack("<H", 20) + fields(name) + name
    body = entries + data
    return (
        body
        + records
        + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(records), len(body), 0)
    )


BOMBS: dict[str, Callable[[], bytes]] = {
    "many files": lambda: packed(*((f"{n}", bomb(MAX_FILE)) for n in range(40))),
    "overlapping files": lambda: overlapping(MAX_FILES),
    "a size that is a lie": lambda: bent(
        packed(("big", bomb(6 * MAX_TOTAL))), central(24, 1), struct.pack("<I", MAX_FILE)
    ),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_costs_little_memory_and_time(data: Callable[[], bytes]) -> None:
    archive = data()
    began = time.process_time()
    tracemalloc.start()
    with pytest.raises((InvalidInput, TooLarge)):
        read_archive(archive)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * MAX_TOTAL
    assert time.process_time() - began < 5


def test_damaged_archives_are_refused_and_never_fail_in_another_way() -> None:
    noise, whole = random.Random(32), packed(("scripts/run.py", "print(1)\n" * 20), ("notes.md", "n"))
    for _ in range(3_000):
        data = bytearray(whole)
        for _ in range(noise.randint(1, 4)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        try:
            files = read_archive(bytes(data[: noise.choice((len(data), noise.randrange(len(data)))) + 1]))
        except (InvalidInput, TooLarge):
            continue
        assert files["SKILL.md"] == SKILL.encode()


async def test_a_refused_upload_leaves_nothing_behind(api: httpx.AsyncClient) -> None:
    before = (await api.get("/v1/skills")).json()
    kind = {"content-type": "application/zip"}
    for data in (*REFUSED.values(), *(make() for make in TOO_LARGE.values())):
        answer = await api.post("/v1/skills/upload", content=data, headers=kind)
        assert answer.status_code in (422, 413), answer.text
        assert answer.json()["code"] in (
            "invalid_skill_archive", "invalid_skill", "skill_too_large", "too_large",
        )  # fmt: skip
    assert (await api.get("/v1/skills")).json() == before


async def test_a_web_page_cannot_make_a_browser_upload_a_skill(api: httpx.AsyncClient) -> None:
    form = {"file": ("a.zip", packed(), "application/zip")}
    answer = await api.post("/v1/skills/upload", files=form)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
