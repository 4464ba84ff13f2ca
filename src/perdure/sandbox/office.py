"""Reads the text of office files (Office Open XML): DOCX, XLSX and PPTX.

They are ZIP files of XML. Only the parts with text are read, and of each only a bounded size: an archive of
10 MB can hold 10 GB. The XML is read as a stream without its tree, and without declarations of entities.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from xml.parsers import expat

from perdure.domain.errors import ToolError
from perdure.domain.file_types import DOCX, PPTX, XLSX
from perdure.sandbox.media import MAX_CHARACTERS, Inspected, clean

MAX_ENTRIES = 10_000
"""Files in the archive."""
MAX_PART = 40_000_000
"""Bytes of one part, decompressed."""
MAX_ALL = 120_000_000
"""Bytes of all parts that are read, decompressed."""
MAX_SHEETS = 200
MAX_SLIDES = 1_000
MAX_COLUMNS = 16_384
"""Columns of a sheet, as the format defines."""
_PIECE = 64 * 1024
_BROKEN = (KeyError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError)
"""What reading a part of a broken, encrypted or exotic archive raises."""
_SLIDE = re.compile(r"ppt/slides/slide(\d{1,5})\.xml")

_Names = dict[str, str]


class _Enough(Exception):
    """There is as much text as is kept."""


class _Archive:
    """The parts of an office file, within limits."""

    def __init__(self, data: bytes) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OverflowError, OSError, NotImplementedError):
            raise ToolError("is not a complete ZIP archive") from None
        self.names = set(self._zip.namelist())
        if len(self._zip.infolist()) > MAX_ENTRIES:
            raise ToolError(f"has more than {MAX_ENTRIES} parts")
        self._left = MAX_ALL

    def pieces(self, name: str) -> Iterator[bytes]:
        """Read a part piece by piece. Raises ToolError: it is broken or too large."""
        size = 0
        try:
            with self._zip.open(name) as part:
                while piece := part.read(_PIECE):
                    size += len(piece)
                    self._left -= len(piece)
                    if size > MAX_PART or self._left < 0:
                        raise ToolError("decompresses to more than the limit: it may be a bomb")
                    yield piece
        except (
            KeyError,
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            RuntimeError,
            NotImplementedError,
            OSError,
        ):
            raise ToolError("is a broken office file, or has a password") from None


class _Xml:
    """Reads XML as a stream. A subclass has the methods `start`, `end` and `text`."""

    def read(self, archive: _Archive, name: str) -> None:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = lambda tag, values: self.start(_local(tag), _plain(values))
        parser.EndElementHandler = lambda tag: self.end(_local(tag))
        parser.CharacterDataHandler = self.text
        parser.StartDoctypeDeclHandler = _refuse
        try:
            for piece in archive.pieces(name):
                parser.Parse(piece, False)
            parser.Parse(b"", True)
        except expat.ExpatError:
            raise ToolError("is an office file with XML that cannot be read") from None

    def start(self, tag: str, values: _Names) -> None: ...
    def end(self, tag: str) -> None: ...
    def text(self, text: str) -> None: ...


def _local(tag: str) -> str:
    return tag.rpartition(" ")[2]


def _plain(values: _Names) -> _Names:
    return {_local(name): value for name, value in values.items()}


def _refuse(*_: object) -> None:
    raise ToolError("is an office file whose XML declares entities, which are not read")


class _Words(_Xml):
    """The text of paragraphs, which DOCX and PPTX mark alike."""

    def __init__(self, out: _Out) -> None:
        self._out, self._deep = out, 0

    def start(self, tag: str, values: _Names) -> None:
        if tag == "t":
            self._deep += 1
        elif tag == "tab":
            self._out.add("\t")
        elif tag in ("br", "cr"):
            self._out.add("\n")

    def end(self, tag: str) -> None:
        if tag == "t":
            self._deep -= 1
        elif tag == "p":
            self._out.add("\n")
        elif tag == "tc":
            self._out.add("\t")

    def text(self, text: str) -> None:
        if self._deep:
            self._out.add(text)


class _Out:
    """Collects text up to the limit."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._left = MAX_CHARACTERS

    def add(self, text: str) -> None:
        """Add text. Raises _Enough."""
        self._pieces.append(text[: self._left])
        self._left -= len(text)
        if self._left < 0:
            raise _Enough

    def __str__(self) -> str:
        return clean(re.sub(r"\n{3,}", "\n\n", "".join(self._pieces))).strip()


class _Strings(_Xml):
    """The texts that the cells of a workbook share."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._now: list[str] = []
        self._deep = self._size = 0

    def start(self, tag: str, values: _Names) -> None:
        if tag == "si":
            self._now = []
        self._deep += tag == "t"

    def end(self, tag: str) -> None:
        self._deep -= tag == "t"
        if tag == "si":
            self.found.append("".join(self._now))

    def text(self, text: str) -> None:
        if self._deep:
            self._size += len(text)
            self._now.append(text)


class _Sheet(_Xml):
    """The cells of a sheet, one line for each row, with tabs in between."""

    def __init__(self, out: _Out, shared: list[str]) -> None:
        self._out, self._shared = out, shared
        self._kind, self._value = "", [""]
        self._column = self._at = 0
        self._inside = False

    def start(self, tag: str, values: _Names) -> None:
        if tag == "row":
            self._column = self._at = 0
        elif tag == "c":
            self._kind, self._value = values.get("t", ""), []
            self._column = _column_of(values.get("r", "")) or self._column + 1
        elif tag in ("v", "t"):
            self._inside = True

    def end(self, tag: str) -> None:
        if tag in ("v", "t"):
            self._inside = False
        elif tag == "c" and (text := self._text_of_cell()):
            self._out.add("\t" * max(0, self._column - max(self._at, 1)) + text)
            self._at = self._column
        elif tag == "row" and self._at:
            self._out.add("\n")

    def text(self, text: str) -> None:
        if self._inside:
            self._value.append(text)

    def _text_of_cell(self) -> str:
        value = "".join(self._value)
        if self._kind == "s" and value.isdigit() and len(value) < 10:
            return self._shared[int(value)] if int(value) < len(self._shared) else ""
        return {"0": "FALSE", "1": "TRUE"}.get(value, value) if self._kind == "b" else value


def _column_of(reference: str) -> int:
    number = 0
    for letter in reference[:3]:
        if not "A" <= letter <= "Z":
            break
        number = number * 26 + ord(letter) - 64
    return min(number, MAX_COLUMNS)


class _Links(_Xml):
    """The elements of a list with two of their values: sheets with names, and relations with targets."""

    def __init__(self, tag: str, key: str, value: str) -> None:
        self._tag, self._key, self._value = tag, key, value
        self.found: list[tuple[str, str]] = []

    def start(self, tag: str, values: _Names) -> None:
        if tag == self._tag and self._key in values and self._value in values:
            self.found.append((values[self._key], values[self._value]))


def read_office(data: bytes) -> Inspected:
    """Extract the text of an office file. Raises ToolError: it is none, it is broken, or it is a bomb."""
    archive = _Archive(data)
    kinds: tuple[tuple[str, str, Callable[[_Archive, _Out], int]], ...] = (
        ("word/document.xml", DOCX, _document),
        ("xl/workbook.xml", XLSX, _workbook),
        ("ppt/presentation.xml", PPTX, _slides),
    )
    for name, media_type, read in kinds:
        if name in archive.names and "[Content_Types].xml" in archive.names:
            out, cut, pages = _Out(), False, 0
            try:
                pages = read(archive, out)
            except _Enough:
                cut = True
            text = str(out)
            note = None if text else "it has no text"
            return Inspected(media_type, pages=pages, text=text or None, cut=cut, note=note)
    raise ToolError("is a ZIP archive, and no DOCX, XLSX or PPTX file")


def _document(archive: _Archive, out: _Out) -> int:
    _Words(out).read(archive, "word/document.xml")
    return 0


def _slides(archive: _Archive, out: _Out) -> int:
    found = [match for name in archive.names if (match := _SLIDE.fullmatch(name))]
    slides = sorted(found, key=lambda match: int(match[1]))[:MAX_SLIDES]
    for match in slides:
        out.add(f"[slide {match[1]}]\n")
        _Words(out).read(archive, match[0])
        out.add("\n")
    return len(slides)


def _workbook(archive: _Archive, out: _Out) -> int:
    shared = _Strings()
    if "xl/sharedStrings.xml" in archive.names:
        shared.read(archive, "xl/sharedStrings.xml")
    sheets = _Links("sheet", "id", "name")
    sheets.read(archive, "xl/workbook.xml")
    links = _Links("Relationship", "Id", "Target")
    links.read(archive, "xl/_rels/workbook.xml.rels")
    targets = dict(links.found)
    for key, name in sheets.found[:MAX_SHEETS]:
        part = posixpath.normpath(posixpath.join("xl", targets.get(key, "-"))).removeprefix("/")
        if part in archive.names:
            out.add(f"[sheet {name[:100]}]\n")
            _Sheet(out, shared.found).read(archive, part)
            out.add("\n")
    return len(sheets.found)
