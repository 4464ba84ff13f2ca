"""The type of a file, by what it contains."""

from __future__ import annotations

import pytest

from perdure.domain.file_types import DOCX, ZIP, contradicts, extension_of, file_type
from tests.media_files import docx, mp3, ogg, pdf, png, wav

FLAC = b"fLaC\0\0\0\x22" + bytes(60)


def movie(brand: bytes) -> bytes:
    return b"\0\0\0\x20ftyp" + brand + bytes(80)


@pytest.mark.parametrize(
    ("data", "kind", "media_type"),
    [
        (png(), "image", "image/png"),
        (pdf("x"), "pdf", "application/pdf"),
        (docx("x"), "office", ZIP),
        (wav(), "audio", "audio/wav"),
        (mp3(), "audio", "audio/mpeg"),
        (b"\xff\xfb\x90\0" + bytes(600), "audio", "audio/mpeg"),
        (FLAC, "audio", "audio/flac"),
        (ogg(), "audio", "audio/ogg"),
        (movie(b"M4A "), "audio", "audio/mp4"),
        (movie(b"M4B "), "audio", "audio/mp4"),
    ],
)
def test_each_type_is_told_by_its_content(data: bytes, kind: str, media_type: str) -> None:
    found = file_type(data, "misleading.txt")
    assert found is not None
    assert (found.kind, found.media_type, found.text) == (kind, media_type, None)


@pytest.mark.parametrize(
    "data",
    [
        movie(b"isom"),
        movie(b"\xff\xff\xff\xff"),
        movie(b"M4A ")[:60],
        FLAC[:42],
        ogg()[:58],
        mp3()[:128],
        b"\xff\xfb\x90\0" + bytes(100),
        b"\xff\xf9\xf0\0" + bytes(600),
        wav().replace(b"data", b"atad"),
        wav()[:-1],
    ],
)
def test_sound_that_was_cut_off_and_films_are_not_accepted(data: bytes) -> None:
    assert file_type(data) is None


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("notes.MD", "text/markdown"),
        ("a.b.csv", "text/csv"),
        ("page.htm", "text/html"),
        ("drawing.svg", "image/svg+xml"),
        ("program.py", "text/plain"),
        ("csv", "text/csv"),
        ("", "text/plain"),
        (None, "text/plain"),
    ],
)
def test_the_end_of_the_name_says_which_text_it_is(name: str | None, media_type: str) -> None:
    found = file_type(b"words", name)
    assert found is not None
    assert (found.kind, found.media_type, found.text) == ("text", media_type, "words")


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_without_its_byte_order_mark(codec: str) -> None:
    found = file_type("Grüße\n".encode(codec))
    assert found is not None
    assert found.text == "Grüße\n"


def test_half_a_character_at_the_end_is_not_text() -> None:
    assert file_type("Grüße".encode("utf-16")[:-1]) is None
    assert file_type("Grü".encode()[:-1]) is None


def test_a_stated_type_contradicts_only_where_the_content_tells_it() -> None:
    assert contradicts("image/png", "image/jpeg")
    assert not contradicts("image/png", "image/png")
    assert not contradicts("text/csv", "text/plain")
    assert not contradicts("", "application/pdf")


def test_the_end_of_a_name_follows_from_the_type() -> None:
    assert [extension_of(each) for each in ("image/jpeg", DOCX, "text/csv")] == [".jpg", ".docx", ""]
