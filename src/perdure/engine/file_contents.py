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

from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.errors import ToolError, Unavailable
from perdure.domain.ids import OrgId
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
from perdure.domain.stored_files import StoredFile
from perdure.engine.scaled_images import ImageScaler, must_be_scaled
from perdure.llm.adaptations import IMAGE_LEFT_OUT
from perdure.llm.carried import Carried
from perdure.store.blobs import read_content
from perdure.store.database import Database

CACHED = 32_000_000
"""Bytes of contents that a process keeps for the next calls."""
LONG = 256 * 1024
"""Bytes above which a content is encoded in a thread."""
UNFIT = "because this model takes no image of its size or format"
NO_ROOM = "because a call has no room for more files"

Form = Literal["base64", "text"]
_Key = tuple[OrgId, str, str, bytes]


class Left(Struct, frozen=True):
    """Why a file is left out, as the end of a sentence."""

    why: str


class FileCache:
    """The contents that the latest calls sent, as text or in base64."""

    def __init__(self, most: int = CACHED) -> None:
        self._most, self._size = most, 0
        self._kept: OrderedDict[_Key, str | Left] = OrderedDict()

    async def get(
        self, database: Database, org_id: OrgId, digest: str, size: int, form: Form, redactor: Redactor
    ) -> str | None:
        """Return a content of `size` bytes; None if it is not stored any more."""
        key = (org_id, digest, form, redactor.fingerprint if form == "text" else b"")
        found = self._at(key)
        if found is None:
            data = await _stored(database, org_id, digest, size)
            if data is None:
                return None
            convert = partial(_encoded, data) if form == "base64" else partial(_read, data, redactor)
            found = await asyncio.to_thread(convert) if size > LONG else convert()
            self._keep(key, found)
        return found if isinstance(found, str) else None

    async def get_scaled(
        self, database: Database, org_id: OrgId, stored: StoredFile, scaler: ImageScaler, side: int, most: int
    ) -> str | Left:
        """Return an image as a JPEG of at most `side` pixels on a side and `most` bytes, or why not."""
        key = (org_id, stored.digest, f"{side} {most}", b"")
        found = self._at(key)
        if found is None:
            data = await _stored(database, org_id, stored.digest, stored.size_bytes)
            if data is None:
                return NOT_STORED
            try:
                jpeg = await scaler.scaled(org_id, stored.media_type, data, side, most)
                found = await asyncio.to_thread(_encoded, jpeg)
            except ToolError as error:
                found = Left(f"{UNFIT}, and {error.message}")
            except Unavailable as error:
                return Left(f"{UNFIT}, and {error.message}")  # the next call may have it
            except TimeoutError:
                return Left("because the server was too busy to make it smaller")
            self._keep(key, found)
        return found

    def _at(self, key: _Key) -> str | Left | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def _keep(self, key: _Key, value: str | Left) -> None:
        if key in self._kept:  # another call has read it meanwhile
            return
        self._kept[key] = value
        self._size += _weight(value)
        while self._size > self._most and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._size -= _weight(dropped)


NOT_STORED = Left("because it is not stored any more")


def _weight(value: str | Left) -> int:
    return len(value if isinstance(value, str) else value.why)


async def _stored(database: Database, org_id: OrgId, digest: str, size: int) -> bytes | None:
    try:
        return await database.read(lambda tx: read_content(tx, org_id, digest, size), long=size > LONG)
    except RuntimeError:  # its parts are missing
        return None


def _read(data: bytes, redactor: Redactor) -> str:
    return redactor.text(data.decode("utf-8", "replace"))


def _encoded(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


class Plan(Struct, frozen=True):
    """What a call sends as it is.

    Attributes:
        taken: the files, by the numbers of their message and of their part.
        side: pixels that an image may have on its longer side.
    """

    taken: frozenset[tuple[int, int]]
    side: int


class Reader:
    """What a model can take.

    Attributes:
        carried: what it gets as it is, and how much of it in a call.
        refused: the ids of the messages whose files its server refused; None: of all messages.
        has_tools: whether the agent has tools that read the session's files, so that paths are of use to it.
    """

    def __init__(self, carried: Carried, refused: Collection[str] | None, *, has_tools: bool) -> None:
        self.carried, self._refused, self.has_tools = carried, refused, has_tools

    def plan(self, messages: Sequence[Message]) -> Plan:
        """Choose the files that a call sends as they are: the newest first, until there is no more room."""
        carried, images, documents, total = self.carried, 0, 0, 0
        taken: set[tuple[int, int]] = set()
        for at in reversed(range(len(messages))):
            message = messages[at]
            for number, part in reversed(list(enumerate(message.content))):
                stored = stored_of(part)
                if stored is None or not self.takes(message, stored):
                    continue
                image, pdf = stored.kind == "image", stored.kind == "pdf"
                size = min(stored.size_bytes, carried.image_bytes) if image else stored.size_bytes
                if (
                    images + image > carried.most_images
                    or documents + pdf > carried.documents
                    or total + size > carried.total_bytes
                ):
                    continue
                images, documents, total = images + image, documents + pdf, total + size
                taken.add((at, number))
        return Plan(frozenset(taken), carried.side if images <= carried.many else carried.side_of_many)

    def takes(self, message: Message, stored: StoredFile) -> bool:
        """Whether the model gets this file of this message as it is, or as a smaller image."""
        carried = self.carried
        if stored.kind not in carried.kinds or self.was_refused(message):
            return False
        match stored.kind:
            case "image":
                return True
            case "audio":
                return stored.media_type in carried.sounds and stored.size_bytes <= carried.total_bytes
            case _:
                return (stored.pages or 0) <= carried.pages and stored.size_bytes <= carried.document_bytes

    def was_refused(self, message: Message) -> bool:
        """Whether the model's server refused the files of this message."""
        return self._refused is None or message.id in self._refused

    def why_not(self, message: Message, stored: StoredFile) -> str:
        """Why a file without text is left out."""
        if stored.note is not None:
            return f"because {stored.note}"
        if self.takes(message, stored):
            return NO_ROOM
        if stored.kind == "image":
            return "because this model cannot read images"
        some = "audio" in self.carried.kinds
        return f"because this model cannot read {'sound of this type or size' if some else 'sound'}"


class Contents:
    """Reads the files of one session's messages."""

    def __init__(
        self, cache: FileCache, database: Database, scaler: ImageScaler, org_id: OrgId, redactor: Redactor
    ) -> None:
        self._cache, self._database, self._scaler = cache, database, scaler
        self._org_id, self._redactor = org_id, redactor

    async def read_by(self, reader: Reader, messages: Sequence[Message]) -> list[Message]:
        """Return the messages with each file as this model gets it."""
        plan = reader.plan(messages)
        return [
            await self._resolved(reader, plan, at, message)
            if any(map(stored_of, message.content))
            else message
            for at, message in enumerate(messages)
        ]

    async def _resolved(self, reader: Reader, plan: Plan, at: int, message: Message) -> Message:
        content: list[ContentPart] = []
        for number, part in enumerate(message.content):
            stored = stored_of(part)
            if stored is None or not isinstance(part, AttachedPart):
                content.append(part)
            elif (at, number) in plan.taken:
                content += await self._native(reader, plan.side, part, stored)
            else:
                content.append(await self._words(reader, message, part, stored))
        return replace(message, content=tuple(content))

    async def _native(
        self, reader: Reader, side: int, part: AttachedPart, stored: StoredFile
    ) -> list[ContentPart]:
        name = described(part, stored, path=reader.has_tools)
        data, media_type = await self._data(reader.carried, side, stored)
        if isinstance(data, Left):
            return [TextPart(f"[{name}: left out, {data.why}]")]
        native: ContentPart
        if stored.kind == "image":
            native = ImagePart(base64=data, media_type=media_type)
        else:
            native = FilePart(base64=data, filename=_name(part, stored), media_type=media_type, stored=stored)
        return [TextPart(f"[{name}]"), native] if reader.has_tools and stored.path else [native]

    async def _data(self, carried: Carried, side: int, stored: StoredFile) -> tuple[str | Left, str]:
        """Return the file in base64, or why it cannot be had, and its media type."""
        if stored.kind == "image" and must_be_scaled(stored, carried, side):
            limits = (side, carried.image_bytes)
            scaler = self._scaler
            scaled = await self._cache.get_scaled(self._database, self._org_id, stored, scaler, *limits)
            return scaled, "image/jpeg"
        data = await self._get(stored.digest, stored.size_bytes, "base64")
        return NOT_STORED if data is None else data, stored.media_type

    async def _words(
        self, reader: Reader, message: Message, part: AttachedPart, stored: StoredFile
    ) -> TextPart:
        """Return a file's text, or a note that it is left out."""
        name = described(part, stored, path=reader.has_tools)
        if stored.text is not None:
            text = await self._get(stored.text, stored.text_bytes, "text")
            if text is None:
                return TextPart(f"[{name}: left out, {NOT_STORED.why}]")
            cut = "\n[The rest is left out, because it is long.]" if stored.text_cut else ""
            return TextPart(f"[{name}; its text follows]\n{text}{cut}\n[end of the file]")
        if stored.kind == "image" and reader.was_refused(message):
            return TextPart(IMAGE_LEFT_OUT)
        return TextPart(f"[{name}: left out, {reader.why_not(message, stored)}]")

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
