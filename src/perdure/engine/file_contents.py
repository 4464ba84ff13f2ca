"""The files of messages as a model gets them: as they are, as their text, or as a note of what is left out.

The log has references only. What a model gets depends on its profile and its protocol, so it is made for each
call; the contents stay in a cache of the process.
"""

from __future__ import annotations

import asyncio
import binascii
from collections import OrderedDict
from collections.abc import Collection, Sequence
from functools import partial
from typing import Literal

from msgspec.structs import replace

from perdure.domain.ids import OrgId
from perdure.domain.media import MAX_IMAGE
from perdure.domain.messages import (
    AttachedPart,
    ContentPart,
    FilePart,
    ImageFilePart,
    ImagePart,
    Message,
    TextPart,
)
from perdure.domain.paths import MOUNT
from perdure.domain.redaction import Redactor
from perdure.domain.stored_files import MAX_PAGES, StoredFile
from perdure.llm.adaptations import IMAGE_LEFT_OUT
from perdure.store.blobs import read_content
from perdure.store.database import Database

CACHED = 32_000_000
"""Bytes of contents that a process keeps for the next calls."""
MAX_SENT = 20_000_000
"""Bytes of a document or a sound that a model gets as it is."""
LONG = 256 * 1024
"""Bytes above which a content is encoded in a thread."""
_SOUNDS = ("audio/wav", "audio/mpeg")
"""The types of sound that models read."""

Form = Literal["base64", "text"]
_Key = tuple[OrgId, str, Form, bytes]


class FileCache:
    """The contents that the latest calls sent, as text or in base64."""

    def __init__(self, most: int = CACHED) -> None:
        self._most, self._size = most, 0
        self._kept: OrderedDict[_Key, str] = OrderedDict()

    async def get(
        self, database: Database, org_id: OrgId, digest: str, size: int, form: Form, redactor: Redactor
    ) -> str | None:
        """Return a content of `size` bytes; None if it is not stored any more."""
        key = (org_id, digest, form, redactor.fingerprint if form == "text" else b"")
        found = self._kept.get(key)
        if found is None:
            try:
                data = await database.read(
                    lambda tx: read_content(tx, org_id, digest, size), long=size > LONG
                )
            except RuntimeError:  # its parts are missing
                return None
            convert = partial(_encoded, data) if form == "base64" else partial(_read, data, redactor)
            found = await asyncio.to_thread(convert) if size > LONG else convert()
            self._keep(key, found)
        self._kept.move_to_end(key)
        return found

    def _keep(self, key: _Key, value: str) -> None:
        self._kept[key] = value
        self._size += len(value)
        while self._size > self._most and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._size -= len(dropped)


def _read(data: bytes, redactor: Redactor) -> str:
    return redactor.text(data.decode("utf-8", "replace"))


def _encoded(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


class Reader:
    """What a model can take.

    Attributes:
        media: the kinds that it gets as they are: `image`, `pdf`, `audio`.
        refused: the ids of the messages whose files its server refused; None: of all messages.
        has_tools: whether the agent has tools that read the session's files, so that paths are of use to it.
    """

    def __init__(self, media: Collection[str], refused: Collection[str] | None, *, has_tools: bool) -> None:
        self._media, self._refused, self.has_tools = media, refused, has_tools

    def takes(self, message: Message, stored: StoredFile) -> bool:
        """Whether the model gets this file of this message as it is."""
        if stored.kind not in self._media or self.was_refused(message):
            return False
        match stored.kind:
            case "image":
                return stored.size_bytes * 4 // 3 < MAX_IMAGE
            case "audio":
                return stored.media_type in _SOUNDS and stored.size_bytes <= MAX_SENT
            case _:
                return (stored.pages or 0) <= MAX_PAGES and stored.size_bytes <= MAX_SENT

    def was_refused(self, message: Message) -> bool:
        """Whether the model's server refused the files of this message."""
        return self._refused is None or message.id in self._refused


class Contents:
    """Reads the files of one session's messages."""

    def __init__(self, cache: FileCache, database: Database, org_id: OrgId, redactor: Redactor) -> None:
        self._cache, self._database, self._org_id, self._redactor = cache, database, org_id, redactor

    async def read_by(self, reader: Reader, messages: Sequence[Message]) -> list[Message]:
        """Return the messages with each file as this model gets it."""
        return [
            await self._resolved(reader, message) if any(map(stored_of, message.content)) else message
            for message in messages
        ]

    async def _resolved(self, reader: Reader, message: Message) -> Message:
        content: list[ContentPart] = []
        for part in message.content:
            stored = stored_of(part)
            if stored is None or not isinstance(part, AttachedPart):
                content.append(part)
            else:
                content += await self._parts(reader, message, part, stored)
        return replace(message, content=tuple(content))

    async def _parts(
        self, reader: Reader, message: Message, part: AttachedPart, stored: StoredFile
    ) -> list[ContentPart]:
        name = described(part, stored, path=reader.has_tools)
        if reader.takes(message, stored):
            data = await self._get(stored.digest, stored.size_bytes, "base64")
            if data is not None:
                native: ContentPart
                if stored.kind == "image":
                    native = ImagePart(base64=data, media_type=stored.media_type)
                else:
                    native = FilePart(
                        base64=data,
                        filename=_name(part, stored),
                        media_type=stored.media_type,
                        stored=stored,
                    )
                return [TextPart(f"[{name}]"), native] if reader.has_tools and stored.path else [native]
        elif stored.text is not None:
            text = await self._get(stored.text, stored.text_bytes, "text")
            if text is not None:
                cut = "\n[The rest is left out, because it is long.]" if stored.text_cut else ""
                return [TextPart(f"[{name}; its text follows]\n{text}{cut}\n[end of the file]")]
        elif stored.kind == "image" and reader.was_refused(message):
            return [TextPart(IMAGE_LEFT_OUT)]
        else:
            return [TextPart(f"[{name}: left out, {_why(stored)}]")]
        return [TextPart(f"[{name}: left out, because it is not stored any more]")]

    async def _get(self, digest: str, size: int, form: Form) -> str | None:
        return await self._cache.get(self._database, self._org_id, digest, size, form, self._redactor)


def stored_of(part: ContentPart) -> StoredFile | None:
    """Return where the part's file is stored; None for other parts."""
    return part.stored if isinstance(part, ImagePart | ImageFilePart | FilePart) else None


def described(part: AttachedPart, stored: StoredFile, *, path: bool) -> str:
    """Describe a file for a model, in a few words.

    Args:
        path: whether to say where tools find it.
    """
    where = f", at {MOUNT}{stored.path}" if path and stored.path else ""
    return f"file {_name(part, stored)}: {stored.media_type}, {_size(stored)}{where}"


def _name(part: AttachedPart, stored: StoredFile) -> str:
    name = None if isinstance(part, ImagePart) else part.filename
    return name or (stored.path or "").rpartition("/")[2] or "without a name"


def _size(stored: StoredFile) -> str:
    size = stored.size_bytes
    text = f"{size} bytes" if size < 10_000 else f"{size // 1_000} kB"
    return f"{text}, {stored.pages} pages" if stored.pages else text


def _why(stored: StoredFile) -> str:
    if stored.note is not None:
        return f"because {stored.note}"
    return f"because this model cannot read {'sound' if stored.kind == 'audio' else 'images'}"
