"""Files that attack their readers: they end as an error about the file, and the server goes on."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable

import pytest
from PIL import Image

from perdure.domain.errors import ToolError
from perdure.domain.file_types import DOCX, PPTX, XLSX, file_type
from perdure.sandbox.media import (
    MAX_CHARACTERS,
    SECONDS,
    Inspected,
    InspectJob,
    Scaled,
    ScaleJob,
    size_of,
)
from perdure.sandbox.pool import Sandbox
from tests.media_files import SHEET, WORD, archive, docx, mp3, ogg, pdf, png, pptx, wav, xlsx


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    made = Sandbox(at_once=2)
    yield made
    await made.close()


async def look(sandbox: Sandbox, data: bytes, *, thumbnail: bool = False) -> Inspected:
    found = file_type(data)
    assert found is not None
    job = InspectJob(found.kind, found.media_type, data, thumbnail)
    async with sandbox.slot((), len(data)):
        return await sandbox.run(job, Inspected, SECONDS)


def test_telling_text_from_bytes_costs_no_more_than_decoding_it_several_times() -> None:
    data = ("пример " * 300_000).encode()

    def seconds(work: Callable[[], object]) -> float:
        took = []
        for _ in range(3):
            began = time.perf_counter()
            work()
            took.append(time.perf_counter() - began)
        return min(took)

    assert seconds(lambda: file_type(data)) < 8 * seconds(data.decode)


@pytest.mark.parametrize("codec", ["utf-8", "utf-16"])
def test_text_has_no_control_characters_in_any_encoding(codec: str) -> None:
    for text in ("plain", "\u0100\u0a00\u0200 \x1b[1m\t\r\n\f\x08", "\u0085x"):
        assert file_type(text.encode(codec)) is not None
    for text in ("a\x00b", "a\x01", "\x1f", "\u0100\x7f\x0e"):
        assert file_type(text.encode(codec)) is None


def bomb(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def png_of(width: int, height: int, pixels: bytes) -> bytes:
    whole = png()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + head
    data = b"IDAT" + pixels
    return (
        whole[:8]
        + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", len(pixels)) + data + struct.pack(">I", zlib.crc32(data))
        + whole[-12:]
    )  # fmt: skip


REFUSED = {
    "an image of huge dimensions": (png_of(60_000, 60_000, bomb(1000)), "60000 x 60000 pixels"),
    "an image that is too long": (png_of(20_000, 1, bomb(20_001)), "20000 x 1 pixels"),
    "an image that was cut off": (png(64, 64)[:60] + b"IEND", "not a complete image"),
    "a GIF that is a web page": (b"GIF89a\1\0\1\0\0\0\0,<script>alert(1)</script>", "not a complete|pixels"),
    "a PDF that was cut off": (pdf("a", "b")[:-60], "not a complete PDF"),
    "a PDF of nothing": (b"%PDF-1.7\n%%EOF", "is a PDF"),
    "a PDF whose pages are their own parents": (
        pdf(tree="<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 9999 >>"), "is a PDF",
    ),
    "a document of zeros": (archive({"word/document.xml": b"<a>" + b" " * 60_000_000}), "may be a bomb"),
    "a workbook of zeros": (
        archive({"xl/workbook.xml": "<a/>", "xl/sharedStrings.xml": b"<a>" + b" " * 50_000_000}), "bomb",
    ),
    "a document that declares entities": (
        docx("&b;", head='<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'), "declares entities",
    ),
    "a document that was cut off": (docx("hello " * 500)[:-80], "not a complete ZIP"),
    "a document of broken XML": (archive({"word/document.xml": WORD}), "cannot be read"),
    "an archive of something else": (archive({"virus.exe": b"MZ"}), "no DOCX, XLSX or PPTX"),
    "an archive of many parts": (
        archive({"word/document.xml": "<a/>"} | {f"{at}": b"" for at in range(10_001)}), "10000 parts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_a_hostile_file_is_refused_with_what_is_wrong(sandbox: Sandbox, name: str) -> None:
    data, why = REFUSED[name]
    with pytest.raises(ToolError, match=why):
        await look(sandbox, data)
    assert (await look(sandbox, png())).width == 3


async def test_the_text_of_documents_is_read(sandbox: Sandbox) -> None:
    found = await look(sandbox, pdf("First page", "Second page"))
    assert (found.pages, found.text) == (2, "[page 1]\nFirst page\n\n[page 2]\nSecond page")
    assert (await look(sandbox, docx("One", "Two"))).text == "One\nTwo"
    sheet = await look(sandbox, xlsx())
    assert (sheet.media_type, sheet.text) == (XLSX, "[sheet Prices]\nitem\t\tcost\npear\t\t1.25\tTRUE")
    slides = await look(sandbox, pptx("Hello", "World"))
    assert (slides.media_type, slides.pages) == (PPTX, 2)
    assert slides.text == "[slide 1]\nHello\n\n[slide 2]\nWorld"


async def test_a_page_without_text_says_so(sandbox: Sandbox) -> None:
    found = await look(sandbox, pdf(""))
    assert (found.text, found.note) == (None, "it has no text: its pages may be pictures")


async def test_a_long_text_is_cut_and_deep_xml_is_read(sandbox: Sandbox) -> None:
    found = await look(sandbox, docx(*["word " * 1_000] * 100))
    assert (found.media_type, len(found.text or ""), found.cut) == (DOCX, MAX_CHARACTERS, True)
    deep = "<w:p>" * 100_000 + "<w:t>x</w:t>" + "</w:p>" * 100_000
    found = await look(sandbox, archive({"word/document.xml": f"{WORD}{deep}</w:body></w:document>"}))
    assert found.text == "x"


async def test_a_cell_of_a_workbook_cannot_make_endless_columns_or_strings(sandbox: Sandbox) -> None:
    cell = '<row><c r="ZZZ1" t="s"><v>99999999999999999999</v></c><c r="XFD1"><v>7</v></c></row>'
    parts = {
        "xl/workbook.xml": f'<workbook {SHEET}><sheet name="s" id="r1"/></workbook>',
        "xl/_rels/workbook.xml.rels": '<a><Relationship Id="r1" Target="../../../xl/s.xml"/></a>',
        "xl/s.xml": f"<worksheet {SHEET}>{cell * 1_000}</worksheet>",
    }
    assert (await look(sandbox, archive(parts))).text is None
    parts["xl/_rels/workbook.xml.rels"] = parts["xl/_rels/workbook.xml.rels"].replace("../../../xl/", "")
    assert len((await look(sandbox, archive(parts))).text or "") <= MAX_CHARACTERS


async def test_a_thumbnail_is_a_small_jpeg(sandbox: Sandbox) -> None:
    found = await look(sandbox, png(900, 300), thumbnail=True)
    assert (found.width, found.height) == (900, 300)
    assert size_of(found.thumbnail) == (256, 85)


async def test_greys_of_16_bits_stay_grey_in_thumbnails_and_smaller_images(sandbox: Sandbox) -> None:
    dark_and_light = (b"\0" + b"\x40\0" * 100 + b"\xc0\0" * 100) * 100
    image = png(200, 100, dark_and_light, depth=16)
    job = ScaleJob("image/png", image, 100, 100_000)
    async with sandbox.slot((), len(image)):
        scaled = await sandbox.run(job, Scaled, SECONDS)
    found = await look(sandbox, image, thumbnail=True)
    for jpeg in (scaled.jpeg, found.thumbnail):
        seen = Image.open(io.BytesIO(jpeg))
        width, height = seen.size
        dark, light = (seen.getpixel((width * part // 4, height // 2)) for part in (1, 3))
        assert (dark, light) == ((64, 64, 64), (192, 192, 192))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (png(), "image/png"),
        (pdf("x"), "application/pdf"),
        (wav(), "audio/wav"),
        (mp3(), "audio/mpeg"),
        (ogg(), "audio/ogg"),
        (b"a,b\n1,2\n", "text/plain"),
        ("Grüße".encode("utf-16"), "text/plain"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "text/plain"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), None),
        (wav()[:80], None),
        (b"\x7fELF" + bytes(100), None),
        (b"\xd0\xcf\x11\xe0" + bytes(600), None),
        (b"", None),
        (b"   ", None),
        (b"text\0with a NUL", None),
        ("Grüße".encode("latin-1"), None),
    ],
)  # fmt: skip
def test_the_content_says_what_a_file_is(data: bytes, kind: str | None) -> None:
    found = file_type(data, "photo.jpg")
    assert (None if found is None else found.media_type) == kind
