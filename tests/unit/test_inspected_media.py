"""What is found in images and PDFs, and which of them are refused."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from perdure.domain.errors import ToolError
from perdure.sandbox import media
from perdure.sandbox.media import Inspected, InspectJob, clean, inspect, size_of
from tests.media_files import pdf, png


def picture(
    form: str, size: tuple[int, int] = (6, 4), mode: str = "RGB", color: Any = 0, **how: Any
) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, color).save(out, form, **how)
    return out.getvalue()


def look(data: bytes, form: str = "png", *, thumbnail: bool = False) -> Inspected:
    return inspect(InspectJob("image", f"image/{form}", data, thumbnail))


def look_at_pdf(data: bytes) -> Inspected:
    return inspect(InspectJob("pdf", "application/pdf", data))


def refusal(kind: str, media_type: str, data: bytes) -> str:
    with pytest.raises(ToolError) as refused:
        inspect(InspectJob(kind, media_type, data))
    return refused.value.message


def thumbnail(data: bytes, form: str = "png") -> Image.Image:
    made = Image.open(io.BytesIO(look(data, form, thumbnail=True).thumbnail))
    assert made.format == "JPEG"
    return made


@pytest.mark.parametrize("form", ["png", "jpeg", "gif", "webp"])
def test_the_size_of_a_decoded_image_is_what_its_header_states(form: str) -> None:
    data = picture(form)
    assert look(data, form) == Inspected(f"image/{form}", 6, 4)
    assert size_of(data) == (6, 4)


def test_a_thumbnail_is_made_only_on_request() -> None:
    assert look(png()).thumbnail == b""
    assert look(png(), thumbnail=True).thumbnail[:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    ("size", "small"), [((900, 300), (256, 85)), ((30, 600), (13, 256)), ((9, 5), (9, 5))]
)
def test_a_thumbnail_keeps_the_proportions_and_is_never_larger(
    size: tuple[int, int], small: tuple[int, int]
) -> None:
    assert thumbnail(png(*size)).size == small


def test_what_is_transparent_is_white_in_a_thumbnail() -> None:
    made = thumbnail(picture("PNG", mode="RGBA", color=(255, 0, 0, 0)))
    assert made.getpixel((2, 2)) == (255, 255, 255)


def test_a_photo_that_lies_on_its_side_is_upright_in_its_thumbnail() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    data = picture("JPEG", (40, 20), exif=turned)
    assert (look(data, "jpeg").width, look(data, "jpeg").height) == (40, 20)
    assert thumbnail(data, "jpeg").size == (20, 40)


def test_an_animation_of_too_many_frames_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("RGB", (2, 2), (shade, 0, 0)) for shade in (60, 120, 180)]
    data = picture("GIF", (2, 2), save_all=True, append_images=frames)
    assert look(data, "gif").width == 2
    monkeypatch.setattr(media, "MAX_FRAMES", 3)
    assert refusal("image", "image/gif", data) == "has more than 3 frames"


def test_an_image_of_too_many_pixels_or_none_is_refused() -> None:
    assert "60000 x 60000 pixels" in refusal("image", "image/png", png(60_000, 60_000, rows=b""))
    assert "16001 x 1 pixels" in refusal("image", "image/png", png(16_001, 1, rows=b""))
    assert refusal("image", "image/png", png(0, 5)) == "is not a complete image"


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (png(64, 64)[:60], "image/png"),
        (png(9, 9, rows=b"\0"), "image/png"),
        (picture("JPEG", (64, 64))[:300], "image/jpeg"),
        (picture("JPEG"), "image/png"),
        (b"", "image/png"),
    ],
)
def test_an_image_that_was_cut_off_or_is_another_is_refused(data: bytes, media_type: str) -> None:
    assert refusal("image", media_type, data) == "is not a complete image"


def test_a_jpeg_states_its_size_after_other_segments() -> None:
    tables = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc4\0\x03x"
    assert size_of(tables + b"\xff\xc0\0\x0b\x08\0\x06\0\x05\x03" + bytes(9)) == (5, 6)
    assert size_of(b"\xff\xd8\xff\xc4\0\0" + bytes(9)) == (0, 0)


def test_the_pages_of_a_pdf_are_numbered_and_empty_ones_are_left_out() -> None:
    found = look_at_pdf(pdf("First", "", "Third"))
    assert (found.pages, found.text) == (3, "[page 1]\nFirst\n\n[page 3]\nThird")
    assert (found.cut, found.note) == (False, None)


def test_a_pdf_without_text_says_so() -> None:
    found = look_at_pdf(pdf("", ""))
    assert (found.pages, found.text, found.note) == (2, None, "it has no text: its pages may be pictures")


def test_the_text_of_a_long_pdf_is_cut_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_CHARACTERS", 30)
    found = look_at_pdf(pdf("a" * 15, "b" * 15, "c" * 15))
    assert (found.pages, found.text, found.cut) == (3, f"[page 1]\n{'a' * 15}\n\n[pag", True)


def test_of_a_pdf_of_too_many_pages_the_first_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_PAGES", 1)
    found = look_at_pdf(pdf("First", "Second"))
    assert (found.pages, found.text) == (2, "[page 1]\nFirst")


def broken(data: bytes, *pages: int) -> bytes:
    """The PDF, with other objects in the place of these pages."""
    for page in pages:
        head = f"{2 + 2 * page} 0 obj\n".encode()
        data = data.replace(head + b"<< /Type /Page ", head + b"<< /Type /Font ")
    return data


def test_a_page_that_cannot_be_read_is_noted_between_those_that_can() -> None:
    text = look_at_pdf(broken(pdf("First", "Second", "Third"), 2)).text
    assert text == "[page 1]\nFirst\n\n[page 2]\n(this page cannot be read)\n\n[page 3]\nThird"


def test_a_pdf_of_which_no_page_can_be_read_is_refused() -> None:
    assert refusal("pdf", "application/pdf", broken(pdf("a", "b"), 1, 2)) == "is a PDF that cannot be read"


def test_a_pdf_that_was_cut_off_or_has_no_pages_is_refused() -> None:
    assert refusal("pdf", "application/pdf", pdf("a")[:-80]) == "is not a complete PDF"
    assert refusal("pdf", "application/pdf", pdf()) == "is a PDF that cannot be read"
    assert refusal("pdf", "application/pdf", b"%PDF-1.7\n%%EOF") == "is a PDF that cannot be read"


def test_a_pdf_with_a_password_is_refused_with_what_to_do() -> None:
    key = "00" * 32
    lock = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{key}> /U <{key}> /P -4 >> /ID [<00> <00>]"
    data = pdf("a").replace(b"/Root 1 0 R", f"/Root 1 0 R {lock}".encode())
    assert refusal("pdf", "application/pdf", data) == "is a PDF with a password: remove it"


def test_text_that_cannot_be_stored_is_replaced() -> None:
    assert clean("a\0b") == "ab"
    assert clean("soft\ufffehyphen") == "soft-hyphen"
    assert clean("half \ud800 pair") == "half ? pair"
