"""A server without the extra `documents` takes files all the same, and says what is missing."""

from __future__ import annotations

import sys

import pytest

from perdure.domain.errors import ToolError
from perdure.sandbox.media import NOT_INSTALLED, InspectJob, inspect, size_of
from tests.media_files import docx, pdf, png


@pytest.fixture
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIL", "pypdfium2"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("_bare")
def test_images_are_checked_by_their_headers_and_have_no_thumbnail() -> None:
    found = inspect(InspectJob("image", "image/png", png(7, 9), thumbnail=True))
    assert (found.width, found.height, found.thumbnail) == (7, 9, b"")
    with pytest.raises(ToolError, match="60000 x 60000"):
        inspect(InspectJob("image", "image/png", png(60_000, 60_000, rows=b"")))
    with pytest.raises(ToolError, match="is not a complete image"):
        inspect(InspectJob("image", "image/jpeg", b"\xff\xd8\xff\xe0\0\0"))


@pytest.mark.usefixtures("_bare")
def test_a_pdf_has_a_note_instead_of_its_text_and_office_files_need_no_library() -> None:
    assert inspect(InspectJob("pdf", "application/pdf", pdf("x"))).note == NOT_INSTALLED
    assert inspect(InspectJob("office", "application/zip", docx("Hello"))).text == "Hello"


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"GIF89a" + b"\x05\0\x06\0" + bytes(20), (5, 6)),
        (b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + b"\x04\0\0\x05\0\0" + bytes(10), (5, 6)),
        (b"RIFF\0\0\0\0WEBPVP8L" + bytes(5) + (4 | 5 << 14).to_bytes(4, "little"), (5, 6)),
        (b"RIFF\0\0\0\0WEBPVP8 " + bytes(10) + b"\x05\0\x06\0", (5, 6)),
        (b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x0b\x08\0\x06\0\x05\x03", (5, 6)),
        (b"\xff\xd8\xff\xe0\0\0", (0, 0)),
    ],
)
def test_the_size_of_an_image_is_in_its_header(data: bytes, size: tuple[int, int]) -> None:
    assert size_of(data) == size
