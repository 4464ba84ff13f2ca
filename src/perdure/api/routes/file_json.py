"""A large file as JSON, part by part."""

from __future__ import annotations

import base64
import codecs
from collections.abc import AsyncIterator

import msgspec

from perdure.app.files import OpenFile, describe


async def file_json(file: OpenFile) -> AsyncIterator[bytes]:
    """Encode a file with its content as a `SessionFile`."""
    encoder = msgspec.json.Encoder()
    yield encoder.encode(describe(file.row))[:-1] + b',"encoding":"%s","content":"' % _encoding(file)
    if file.row.is_text:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for part in range(file.parts):
            text = decoder.decode(await file.read(part), final=part + 1 == file.parts)
            yield encoder.encode(text)[1:-1]
    else:
        rest = b""
        for part in range(file.parts):
            data = rest + await file.read(part)
            whole = len(data) - len(data) % 3  # base64 of three bytes stands for itself
            rest = data[whole:]
            yield base64.b64encode(data[:whole])
        yield base64.b64encode(rest)
    yield b'"}'


def _encoding(file: OpenFile) -> bytes:
    return b"text" if file.row.is_text else b"base64"
