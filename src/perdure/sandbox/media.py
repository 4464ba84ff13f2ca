"""Looks inside the files of messages: decodes and scales images, and extracts the text of documents.

It runs in the sandbox's processes only: decoders of foreign files crash, hang and fill the memory. The
libraries come with the extra `documents`, and are imported by the first file that needs them.
"""

from __future__ import annotations

import contextlib
import io
import signal
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from perdure.domain.errors import ToolError

CPU_SECONDS = 20.0
"""Processor time of one file, in seconds. A file that takes longer ends its process."""
SECONDS = 40.0
"""The time limit of one file on a busy machine, in seconds."""
MAX_PIXELS = 50_000_000
"""Pixels of an image: 200 MB when it is decoded."""
MAX_SIDE = 16_000
"""Pixels of the longer side of an image."""
MAX_FRAMES = 1_000
"""Frames of an animation."""
THUMBNAIL = 256
"""Pixels of the longer side of a thumbnail."""
MAX_CHARACTERS = 200_000
"""Characters of extracted text that are kept."""
MAX_PAGES = 5_000
"""Pages of a document that are counted."""
BROKEN = 20
"""Pages that cannot be read, one after another from the first, after which the document is not read."""

NOT_INSTALLED = "the server has no library to read it: its operator can install perdure[documents]"

_FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/gif": "GIF", "image/webp": "WEBP"}


class InspectJob(Struct, frozen=True, tag="inspect"):
    """A file to look into. `kind` is that of `file_type`; `thumbnail`: whether to make one."""

    kind: str
    media_type: str
    data: bytes
    thumbnail: bool = False


class ScaleJob(Struct, frozen=True, tag="scale"):
    """An image to make smaller: a JPEG of at most `side` pixels on its longer side and `most` bytes."""

    media_type: str
    data: bytes
    side: int
    most: int


class Scaled(Struct, frozen=True):
    """The smaller image."""

    jpeg: bytes


class Inspected(Struct, frozen=True, omit_defaults=True):
    """What is in a file.

    Attributes:
        media_type: the type, which of an office file is known only now.
        width, height: pixels of an image.
        pages: of a document: its pages, slides or sheets.
        text: the beginning of the document's text; None if none could be extracted.
        cut: whether there is more text.
        note: why there is no text.
        thumbnail: a small JPEG.
    """

    media_type: str
    width: int = 0
    height: int = 0
    pages: int = 0
    text: str | None = None
    cut: bool = False
    note: str | None = None
    thumbnail: bytes = b""


def inspect(job: InspectJob) -> Inspected:
    """Look into a file. Raises ToolError: it is broken, or over a limit; the message completes "the file"."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        match job.kind:
            case "image":
                return _image(job)
            case "pdf":
                return _pdf(job)
            case _:
                from perdure.sandbox.office import read_office

                return read_office(job.data)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def scale(job: ScaleJob) -> Scaled:
    """Make an image smaller. Raises ToolError: it cannot be done; the message completes "because"."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        with _opened(job.data, job.media_type) as image:
            flat = _flattened(image, job.side)
            side = max(flat.size)
            while side:
                for quality in (90, 70):
                    jpeg = _jpeg(flat, quality)
                    if len(jpeg) <= job.most:
                        return Scaled(jpeg)
                side //= 2
                flat.thumbnail((side, side))
    except ImportError:
        raise ToolError(NOT_INSTALLED) from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    raise ToolError("it cannot be made small enough")


def _image(job: InspectJob) -> Inspected:
    try:
        with _opened(job.data, job.media_type) as image:
            width, height = image.size
            thumbnail = _jpeg(_flattened(image, THUMBNAIL), 80) if job.thumbnail else b""
    except ImportError:
        width, height = size_of(job.data)
        check_dimensions(width, height)
        return Inspected(job.media_type, width, height)
    return Inspected(job.media_type, width, height, thumbnail=thumbnail)


@contextlib.contextmanager
def _opened(data: bytes, media_type: str) -> Iterator[Any]:
    """Decode an image.

    Raises:
        ToolError: it is broken, or over a limit.
        ImportError: the library is not installed.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # ours are checked before anything is decoded
    try:
        with Image.open(io.BytesIO(data), formats=[_FORMATS[media_type]]) as image:
            check_dimensions(*image.size)
            if getattr(image, "n_frames", 1) > MAX_FRAMES:
                raise ToolError(f"has more than {MAX_FRAMES} frames")
            image.load()
            yield image
    except ToolError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, Image.DecompressionBombError):
        raise ToolError("is not a complete image") from None


def check_dimensions(width: int, height: int) -> None:
    """Refuse an image that would fill the memory. Raises ToolError."""
    if not width or not height:
        raise ToolError("is not a complete image")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ToolError(
            f"has {width} x {height} pixels; the limits are {MAX_SIDE} on a side and {MAX_PIXELS} in all"
        )


def _flattened(image: Any, side: int) -> Any:
    """Return the image upright, with at most `side` pixels on its longer side, and on white."""
    from PIL import Image, ImageOps

    if image.mode in ("P", "1"):
        image = image.convert("RGBA")  # colours of a palette cannot be mixed
    image.thumbnail((side, side))  # before what copies the whole image
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        # Greys of 16 bits, of which a plain conversion makes white. What means transparency has 16 bits too.
        upright = upright.convert("I").point(lambda grey: grey * (1 / 256)).convert("L")
        upright.info.pop("transparency", None)
    flat = Image.new("RGB", upright.size, "white")  # JPEG has no transparency
    with_alpha = upright.convert("RGBA")
    flat.paste(with_alpha, mask=with_alpha.getchannel("A"))
    return flat


def _jpeg(image: Any, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def size_of(data: bytes) -> tuple[int, int]:
    """Return the width and height that an image's header states; zeros if it has none."""
    if data.startswith(b"\x89PNG"):
        return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if data.startswith(b"GIF8"):
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if data[8:12] == b"WEBP":
        return _size_of_webp(data)
    return _size_of_jpeg(data)


def _size_of_webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _size_of_jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        at += 2 + max(length, 2)
    return 0, 0


def _pdf(job: InspectJob) -> Inspected:
    if b"%%EOF" not in job.data[-2048:] and b"startxref" not in job.data[-2048:]:
        raise ToolError("is not a complete PDF")
    try:
        import pypdfium2
    except ImportError:
        return Inspected(job.media_type, note=NOT_INSTALLED)
    try:
        with pypdfium2.PdfDocument(job.data) as document:
            count = len(document)
            if not count:
                raise ToolError("is a PDF without pages")
            text, cut = _text_of_pages(document, min(count, MAX_PAGES))
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise ToolError("is a PDF with a password: remove it") from None
        raise ToolError("is a PDF that cannot be read") from None
    note = None if text.strip() else "it has no text: its pages may be pictures"
    return Inspected(job.media_type, pages=count, text=text if note is None else None, cut=cut, note=note)


def _text_of_pages(document: Any, count: int) -> tuple[str, bool]:
    import pypdfium2

    texts: list[str] = []
    size = broken = 0
    for number in range(count):
        try:
            page = document[number]
            reader = page.get_textpage()
            text = reader.get_text_range().replace("\r\n", "\n").strip()
            reader.close()
            page.close()
        except pypdfium2.PdfiumError:
            broken += 1
            if broken == number + 1 >= min(count, BROKEN):
                raise
            text = "(this page cannot be read)"
        texts.append(f"[page {number + 1}]\n{text}" if text else "")
        size += len(texts[-1]) + 2
        if size > MAX_CHARACTERS:
            return clean("\n\n".join(filter(None, texts)))[:MAX_CHARACTERS], True
    return clean("\n\n".join(filter(None, texts))), False


def clean(text: str) -> str:
    """Replace what cannot be stored: NUL and halves of surrogate pairs."""
    return text.replace("\0", "").replace("\ufffe", "-").encode("utf-8", "replace").decode()
