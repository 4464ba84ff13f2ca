"""Reads `multipart/form-data` (RFC 7578) while it arrives, within limits.

    async for part in Multipart(body, MultipartLimits(parts=3)):
        if part.name == "file":
            async for chunk in part:
                ...

Each part must be read before the next one; what is left of it is skipped. Nothing is held but a chunk and the
headers of one part. The body's size and time are bounded by `BodyStream`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct

from perdure.domain.errors import InvalidInput, TooLarge, UnsupportedMedia


class MultipartLimits(Struct, frozen=True):
    """Limits of one body.

    Attributes:
        parts: the maximum number of parts.
        header_bytes: the maximum size of the headers of one part, in bytes.
    """

    parts: int = 16
    header_bytes: int = 8 * 1024


_MAX_NAME = 1_000
"""Characters of a part's name and of its file name."""
_PARAMETER = re.compile(
    rb';[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*+)"|([^\s";]*))'
)
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")


def boundary_of(content_type: bytes) -> bytes:
    """Return the boundary that a Content-Type declares.

    Raises:
        UnsupportedMedia: the type is not multipart/form-data.
        InvalidInput: the boundary is missing or invalid.
    """
    media, _, _ = content_type.partition(b";")
    if media.strip().lower() != b"multipart/form-data":
        raise UnsupportedMedia("send a form with the header Content-Type: multipart/form-data")
    boundary = _parameters(content_type).get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise InvalidInput(
            "the Content-Type needs a `boundary` of 1 to 70 characters", code="invalid_multipart"
        )
    return boundary


class Part:
    """One part of a form.

    Attributes:
        name: the name of the form's field.
        filename: the name of the file, as the client sent it: it may be a path; None for a plain field.
        content_type: the declared media type, in lower case and without parameters; empty without one.
    """

    __slots__ = ("_form", "content_type", "filename", "name")

    def __init__(self, form: Multipart, headers: dict[bytes, bytes]) -> None:
        """Raises InvalidInput and UnsupportedMedia: the headers do not describe a part that can be read."""
        disposition = headers.get(b"content-disposition", b"")
        kind, _, _ = disposition.partition(b";")
        parameters = _parameters(disposition)
        if kind.strip().lower() != b"form-data" or b"name" not in parameters:
            raise _malformed('each part needs the header Content-Disposition: form-data; name="..."')
        encoding = headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if encoding not in (b"binary", b"8bit", b"7bit"):
            raise UnsupportedMedia("parts with a Content-Transfer-Encoding are not read: send their bytes")
        self._form = form
        self.name = _text(parameters[b"name"])
        self.filename = _text(parameters[b"filename"]) if b"filename" in parameters else None
        self.content_type = (
            headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
        )

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Read the part's content, chunk by chunk. Raises the errors of `BodyStream`, and InvalidInput."""
        return self._form.content_of(self)

    async def read(self, limit: int) -> bytes:
        """Read the content of a part of at most `limit` bytes. Raises TooLarge."""
        chunks: list[bytes] = []
        size = 0
        async for chunk in self:
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"the form's field {self.name[:100]!r} may have at most {limit} bytes")
            chunks.append(chunk)
        return b"".join(chunks)


class Body(Protocol):
    """A body of a declared type, chunk by chunk: a `BodyStream`, for example."""

    @property
    def content_type(self) -> bytes: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Multipart:
    """A form, part by part."""

    def __init__(self, body: Body, limits: MultipartLimits | None = None) -> None:
        """Raises UnsupportedMedia and InvalidInput: the Content-Type is not that of a form."""
        self._delimiter = b"\r\n--" + boundary_of(body.content_type)
        self._limits = limits or MultipartLimits()
        self._chunks = aiter(body)
        self._buffer = b"\r\n"  # so that the first delimiter is like the others
        self._open: Part | None = None

    async def __aiter__(self) -> AsyncIterator[Part]:
        """Read the parts, and then to the end of the body.

        Raises:
            InvalidInput: the body is not a form, or is cut off.
            UnsupportedMedia: a part has an encoding.
            TooLarge: a limit is exceeded.
        """
        await self._fill(len(self._delimiter))
        if not self._buffer.startswith(self._delimiter):
            raise _malformed("the body does not begin with its boundary")
        self._buffer = self._buffer[len(self._delimiter) :]
        count = 0
        while not await self._is_last():
            count += 1
            if count > self._limits.parts:
                raise TooLarge(f"a form may have at most {self._limits.parts} parts", code="too_many_parts")
            self._open = Part(self, await self._headers())
            yield self._open
            if self._open is not None:
                async for _ in self.content_of(self._open):
                    pass
        rest = len(self._buffer)
        async for chunk in self._chunks:
            rest += len(chunk)
            if rest > self._limits.header_bytes:
                raise _malformed("bytes follow the last boundary")

    async def content_of(self, part: Part) -> AsyncIterator[bytes]:
        """Read the rest of a part; nothing if it was read, or is not the current one."""
        keep = len(self._delimiter) - 1
        while self._open is part:
            at = self._buffer.find(self._delimiter)
            if at >= 0:
                content, self._buffer = self._buffer[:at], self._buffer[at + keep + 1 :]
                self._open = None
            else:
                at = max(0, len(self._buffer) - keep)
                content, self._buffer = self._buffer[:at], self._buffer[at:]
            if content:
                yield content
            if self._open is part:
                await self._more()

    async def _is_last(self) -> bool:
        """Read what follows a delimiter: a line break, or two hyphens after the last part."""
        await self._fill(2)
        if self._buffer.startswith(b"--"):
            self._buffer = self._buffer[2:]
            return True
        end = self._buffer.find(b"\r\n")
        while end < 0 and len(self._buffer) <= _PADDING:
            await self._more()
            end = self._buffer.find(b"\r\n")
        if not 0 <= end <= _PADDING or self._buffer[:end].strip(b" \t"):
            raise _malformed("a boundary is followed by something else than a line break")
        self._buffer = self._buffer[end:]
        return False

    async def _headers(self) -> dict[bytes, bytes]:
        """Read the headers of a part. The buffer begins with the line break before them."""
        end = self._buffer.find(b"\r\n\r\n")
        while end < 0 and len(self._buffer) <= self._limits.header_bytes:
            await self._more()
            end = self._buffer.find(b"\r\n\r\n")
        if not 0 <= end <= self._limits.header_bytes:
            raise TooLarge(
                f"the headers of a part may have at most {self._limits.header_bytes} bytes",
                code="part_headers_too_large",
            )
        head, self._buffer = self._buffer[2:end], self._buffer[end + 4 :]
        headers: dict[bytes, bytes] = {}
        for line in head.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            key = name.strip().lower()
            if not colon or not key or key in headers:
                raise _malformed("a part has a malformed or repeated header")
            headers[key] = value.strip()
        return headers

    async def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            await self._more()

    async def _more(self) -> None:
        chunk = await anext(self._chunks, None)
        if chunk is None:
            raise _malformed("the body ends before its last boundary")
        self._buffer += chunk


_PADDING = 64
"""Spaces after a boundary."""


def _parameters(value: bytes) -> dict[bytes, bytes]:
    """Parse the parameters of a header; of one that is given twice, the first one counts."""
    found: dict[bytes, bytes] = {}
    for match in _PARAMETER.finditer(value):
        quoted, plain = match[2], match[3]
        found.setdefault(match[1].lower(), plain if quoted is None else re.sub(rb'\\(["\\])', rb"\1", quoted))
    return found


def _text(value: bytes) -> str:
    """Decode a name, which browsers send in UTF-8."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise _malformed("the names of a form must be in UTF-8") from None
    if len(text) > _MAX_NAME or "\x00" in text:
        raise _malformed(f"the names of a form may have at most {_MAX_NAME} characters, and no NUL")
    return text


def _malformed(problem: str) -> InvalidInput:
    return InvalidInput(f"this is not a valid form: {problem}", code="invalid_multipart")
