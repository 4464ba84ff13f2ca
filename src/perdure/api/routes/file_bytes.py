"""Files as they are: downloads, whole or in part, and uploads."""

from __future__ import annotations

import secrets
import urllib.parse
from collections.abc import AsyncIterator, Sequence

from perdure.api.kernel.asgi import Header, Receive, Scope, Send
from perdure.api.kernel.body_stream import BodyStream
from perdure.api.kernel.call import Call, Reply, Stream
from perdure.api.kernel.entity_tags import etag_header, is_known
from perdure.api.kernel.multipart import Multipart
from perdure.api.kernel.ranges import Span, spans_of
from perdure.api.kernel.sending import abort_connection, is_closed
from perdure.app.file_access import At
from perdure.app.files import OpenFile
from perdure.app.uploads import Put, put_file
from perdure.domain.errors import InvalidInput, PerdureError, PreconditionFailed
from perdure.domain.paths import name_of
from perdure.store.blobs import PART

FORM_BYTES = 64 * 1024
"""Bytes of a form that may be something else than its file."""

SANDBOXED = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; sandbox")
"""Files come from users and models: a browser may show them, but not run or load anything."""

_BINARY = b"application/octet-stream"


# --- uploads ----------------------------------------------------------------


async def upload(call: Call, at: At, path: str, body: BodyStream, *, raw: bool) -> Put:
    """Create or replace a file with a body, or with the file in a body that is a form."""
    media = body.content_type.partition(b";")[0].strip().lower()
    is_form = media == b"multipart/form-data" and not raw
    content = _file_in(Multipart(body)) if is_form else aiter(body)
    size = None if is_form else body.size
    return await put_file(call.app, call.caller, at, path, content, size, call.if_match)


async def _file_in(form: Multipart) -> AsyncIterator[bytes]:
    """Read the only file of a form; its plain fields are ignored.

    Raises:
        InvalidInput: the form is malformed, or has no file or several.
    """
    found = False
    async for part in form:
        if part.filename is None:
            continue
        if found:
            raise InvalidInput(
                "the form has several files: send each one on its own", code="invalid_multipart"
            )
        found = True
        async for chunk in part:
            yield chunk
    if not found:
        raise InvalidInput("the form has no part with a file name", code="invalid_multipart")


# --- downloads --------------------------------------------------------------


def download(call: Call, file: OpenFile) -> Reply | Stream:
    """Send a file, or the parts of it that the request asks for.

    Raises:
        PreconditionFailed: the file is not the one of `If-Match`.
        UnsatisfiableRange: the file has no such bytes.
    """
    row = file.row
    if call.if_match is not None and not {"*", row.hash} & call.if_match:
        raise PreconditionFailed(f"{row.path} has changed since it was read: read it again")
    if is_known(call.headers, row.hash):
        return Reply(b"", 304, headers=etag_header(row.hash))
    headers: list[Header] = [
        (b"accept-ranges", b"bytes"),
        (b"content-disposition", disposition(name_of(row.path))),
        (b"x-content-type-options", b"nosniff"),
        SANDBOXED,
        *etag_header(row.hash),
    ]
    total = row.size_bytes

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        is_head = scope["method"] == "HEAD"
        wanted = [] if is_head else spans
        pieces, size, more = _pieces(wanted or [Span(0, total - 1)], total, is_multiple=len(wanted) > 1)
        if len(wanted) == 1:
            more.append((b"content-range", wanted[0].header(total)))
        start = [*headers, *more, (b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 206 if wanted else 200, "headers": start})
        for piece in () if is_head else pieces:
            try:
                async for data in _read(file, piece):
                    if is_closed(scope):
                        return
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            except PerdureError:
                abort_connection(scope)  # so that the client sees that bytes are missing
                return
        await send({"type": "http.response.body", "body": b""})

    spans = spans_of(call.headers, total, row.hash)
    return Stream(run)


def _pieces(
    spans: Sequence[Span], total: int, *, is_multiple: bool
) -> tuple[list[Span | bytes], int, list[Header]]:
    """Return what the body consists of, its size in bytes, and its headers."""
    if not is_multiple:
        return [*spans], sum(span.size for span in spans), [(b"content-type", _BINARY)]
    boundary = secrets.token_hex(16).encode()
    pieces: list[Span | bytes] = []
    for span in spans:
        head = b"\r\n--%s\r\nContent-Type: %s\r\nContent-Range: %s\r\n\r\n"
        pieces += [head % (boundary, _BINARY, span.header(total)), span]
    pieces.append(b"\r\n--%s--\r\n" % boundary)
    size = sum(len(piece) if isinstance(piece, bytes) else piece.size for piece in pieces)
    return pieces, size, [(b"content-type", b"multipart/byteranges; boundary=" + boundary)]


async def _read(file: OpenFile, piece: Span | bytes) -> AsyncIterator[bytes]:
    if isinstance(piece, bytes):
        yield piece
        return
    for part in range(piece.first // PART, piece.last // PART + 1):
        start = part * PART
        data = await file.read(part)
        if piece.first > start or piece.last < start + len(data) - 1:
            data = data[max(0, piece.first - start) : piece.last - start + 1]
        yield data


def disposition(name: str) -> bytes:
    """Build a Content-Disposition that saves a file under its name (RFC 6266).

    Characters with a meaning in the header are replaced or quoted.
    """
    plain = "".join(ch if ch.isascii() and ch.isprintable() and ch not in '"\\%;' else "_" for ch in name)
    quoted = urllib.parse.quote(name, safe="")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quoted}".encode()
