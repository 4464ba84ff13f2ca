"""Images that a model can receive, and those that are refused at the door."""

from __future__ import annotations

import base64

import pytest

from perdure.domain.media import MAX_IMAGE, BadImage, clean_image, is_unusable
from perdure.domain.messages import ImageFilePart, ImagePart, TextPart


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
JPEG = encoded(b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(40) + b"\xff\xda")
GIF = encoded(b"GIF89a\x01\x00\x01\x00\x00\x00\x00!\xf9\x04\x01\x0a\x00\x01\x00," + bytes(9))
WEBP = encoded(b"RIFF\x1a\x00\x00\x00WEBPVP8L" + bytes(20))
BMP = encoded(b"BM" + bytes(60))
HEIC = encoded(b"\x00\x00\x00\x18ftypheic" + bytes(40))
SVG = encoded(b"<svg xmlns='http://www.w3.org/2000/svg'></svg>")
PDF = encoded(b"%PDF-1.7\n" + bytes(60))


@pytest.mark.parametrize(
    ("part", "media_type"),
    [
        (ImagePart(base64=PNG, media_type="image/png"), "image/png"),
        (ImagePart(base64=PNG, media_type="IMAGE/PNG; charset=binary"), "image/png"),
        (ImagePart(base64=JPEG, media_type="image/jpeg"), "image/jpeg"),
        (ImagePart(base64=JPEG, media_type="image/jpg"), "image/jpeg"),
        (ImagePart(base64=GIF, media_type="image/gif"), "image/gif"),
        (ImagePart(base64=WEBP, media_type="image/webp"), "image/webp"),
        (ImagePart(url="https://example.com/a.png?x=1"), None),
        (ImagePart(url="http://example.com/a b.png".replace(" ", "%20")), None),
        (ImagePart(url=f"data:image/png;base64,{PNG}"), None),
        (ImagePart(url=f"DATA:image/jpeg;base64,{JPEG}"), None),
    ],
)
def test_images_that_all_vendors_accept_are_taken(part: ImagePart, media_type: str | None) -> None:
    assert clean_image(part).media_type == media_type
    assert not is_unusable(part)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (ImagePart(base64="", media_type="image/png"), "has no data"),
        (ImagePart(base64="not base64!!", media_type="image/png"), "is not base64"),
        (ImagePart(base64=PNG[:-3], media_type="image/png"), "is not base64"),
        (ImagePart(base64=PNG.replace("+", "-"), media_type="image/png"), "is not base64"),
        (ImagePart(base64=PNG + "\n", media_type="image/png"), "is not base64"),
        (ImagePart(base64="iVBORw0KGgo=", media_type="image/png"), "no complete"),
        (ImagePart(base64=encoded(b"hello " * 9), media_type="image/png"), "no complete"),
        (ImagePart(base64=encoded(bytes(99)), media_type="image/gif"), "no complete"),
        (ImagePart(base64=JPEG[:40], media_type="image/jpeg"), "no complete"),
        (ImagePart(base64=GIF[:24], media_type="image/gif"), "no complete"),
        (ImagePart(base64=encoded(b"GIF89a" + bytes(20) + b","), media_type="image/gif"), "no complete"),
        (ImagePart(base64=PNG, media_type="image/jpeg"), "its data is image/png"),
        (ImagePart(base64=JPEG, media_type="image/png"), "its data is image/jpeg"),
        (ImagePart(base64=BMP, media_type="image/bmp"), "image/bmp"),
        (ImagePart(base64=BMP, media_type="image/png"), "no complete"),
        (ImagePart(base64=HEIC, media_type="image/heic"), "image/heic"),
        (ImagePart(base64=SVG, media_type="image/svg+xml"), "svg"),
        (ImagePart(base64=PDF, media_type="application/pdf"), "application/pdf"),
        (ImagePart(base64=PDF, media_type="image/png"), "no complete"),
        (ImagePart(base64=PNG, media_type=""), "media type"),
        (ImagePart(base64=PNG, media_type="png"), "media type"),
        (ImagePart(base64="A" * (MAX_IMAGE + 4), media_type="image/png"), "the limit is"),
        (ImagePart(url=""), "not a complete"),
        (ImagePart(url="https://"), "not a complete"),
        (ImagePart(url="http:///a.png"), "not a complete"),
        (ImagePart(url="https://[::1/a.png"), "not a complete"),
        (ImagePart(url="ftp://example.com/a.png"), "not a complete"),
        (ImagePart(url="file:///etc/passwd"), "not a complete"),
        (ImagePart(url="javascript:alert(1)"), "not a complete"),
        (ImagePart(url="example.com/a.png"), "not a complete"),
        (ImagePart(url="https://example.com/a b.png"), "not a complete"),
        (ImagePart(url="https://example.com/" + "a" * 9_000), "Send its bytes"),
        (ImagePart(url="data:image/png;base64"), "data URL"),
        (ImagePart(url="data:image/png;base64,"), "has no data"),
        (ImagePart(url="data:,"), "data URL"),
        (ImagePart(url="data:image/png,abc"), "data URL"),
        (ImagePart(url="data:text/html;base64,PGI+"), "media type"),
        (ImagePart(url=f"data:image/png;base64,{PNG[:40]}"), "no complete"),
        (ImagePart(url=f"data:image/gif;base64,{PNG}"), "its data is image/png"),
    ],
)
def test_other_media_is_refused_with_the_reason(part: ImagePart, reason: str) -> None:
    with pytest.raises(BadImage) as refused:
        clean_image(part)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    "part",
    [
        ImageFilePart("image_1"),
        ImagePart(),
        ImagePart(base64="", media_type="image/png"),
        ImagePart(base64="!!", media_type="image/png"),
        ImagePart(base64="iVBORw0KGgo=", media_type="image/png"),
        ImagePart(url="data:image/png;base64"),
        ImagePart(url=""),
    ],
)
def test_an_image_without_data_in_an_old_log_is_left_out_of_prompts(part: ImagePart | ImageFilePart) -> None:
    assert is_unusable(part)
    assert not is_unusable(TextPart(""))
