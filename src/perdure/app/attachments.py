"""The files of messages: fetched, examined and stored as the message comes in. The log gets references.

`receive` runs before the message's transaction: it fetches URLs and asks the sandbox. `Attachments.keep` is a
part of that transaction: the session holds the contents, and its tools see them in its files.
"""

from __future__ import annotations

import asyncio
import binascii
import itertools
import posixpath
from urllib.parse import unquote, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.confidential import close_to_others
from perdure.app.context import App, Services
from perdure.app.file_access import OfSession, content_of_row
from perdure.app.file_inspection import Examined, examine
from perdure.app.file_views import entry_at, view_at
from perdure.app.session_mounts import with_mounts
from perdure.capabilities.layers import read_layers
from perdure.domain.accounts import Caller
from perdure.domain.data_flow import External, host_of, with_sources
from perdure.domain.errors import InvalidInput, PerdureError, TooLarge, ToolError, Unavailable
from perdure.domain.file_types import extension_of
from perdure.domain.files import LONG, MAX_ENTRIES, Content, FileLimits, too_large
from perdure.domain.ids import ImageId, OrgId, SessionId, check_id
from perdure.domain.messages import (
    MAX_FILENAME,
    AttachedPart,
    FilePart,
    ImageFilePart,
    ImagePart,
    InputPart,
    TextPart,
)
from perdure.domain.network import NetworkRules, combine
from perdure.domain.paths import clean_path, name_of
from perdure.domain.times import Micros
from perdure.net.web_client import fetch
from perdure.store.blobs import read_content, stage_content
from perdure.store.confidential import reader_of
from perdure.store.content_holds import held_by, hold_contents
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, write_files
from perdure.store.files import FileRow, get_entries, is_a_folder
from perdure.store.images import get_image
from perdure.store.sessions import SessionRow, get_session
from perdure.store.workspaces import WorkspaceRow, external_of_files, hold_workspace, note_external

FOLDER = "/attachments"
"""Where the session's files have the files of messages."""
MAX_FILES = 20
"""Files of one message."""
MAX_BYTES = 50_000_000
"""Bytes of all files of one message."""
PATIENCE = 50.0
"""Seconds for fetching and examining all files of a message. Others wait a little longer for a turn: so
organizations whose files are slow cannot keep the rest out."""
_OK = range(200, 300)


class _Arrived(Struct, frozen=True):
    """The bytes of a file, and what is known of it. `personal`: it is of a user's memory."""

    data: bytes
    filename: str | None = None
    media_type: str | None = None
    path: str | None = None
    external: tuple[External, ...] = ()
    personal: bool = False


class _File(Struct, frozen=True):
    """A file of the message. `path`: where the session's files have it already."""

    index: int
    examined: Examined
    filename: str | None
    path: str | None


class Attachments(Struct, frozen=True):
    """A message's parts, its files, and where those came from that were fetched.

    Attributes:
        personal: whether one of the files is of a user's memory, so that the session is that user's alone.
    """

    content: tuple[InputPart, ...]
    files: tuple[_File, ...] = ()
    external: tuple[External, ...] = ()
    personal: bool = False

    async def keep(self, app: Services, tx: Tx, row: SessionRow, now: Micros) -> tuple[InputPart, ...]:
        """Store the files for a session whose row is locked; return the parts as the log has them.

        Raises:
            TooLarge: the session's files have no room for them, or its messages have too many already.
        """
        if not self.files:
            return self.content
        # In the order in which all changes of files lock: the workspace, then the contents by their hashes.
        # Who reads the session is last.
        space = await hold_workspace(tx, row.org_id, row.workspace())
        texts = [each.examined.text for each in self.files if each.examined.text is not None]
        held = (*(each.examined.content for each in self.files), *texts)
        await hold_contents(tx, row.org_id, row.id, held, now)
        await _check_held(tx, row, app.file_limits)
        paths = await _write(app, tx, row, space, self, now)
        if self.personal:
            await close_to_others(tx, row, now)
        parts = list(self.content)
        for file, path in zip(self.files, paths, strict=True):
            parts[file.index] = _logged(parts[file.index], file, path)
        return tuple(parts)


async def _check_held(tx: Tx, row: SessionRow, limits: FileLimits) -> None:
    """Check what the session's messages have together, also of files that it has deleted since."""
    count, size = await held_by(tx, row.org_id, row.id)
    if size > limits.workspace or count > MAX_ENTRIES:
        raise TooLarge(
            f"the files of a session's messages may have {limits.workspace} bytes together, and be "
            f"{MAX_ENTRIES} with their texts; with these they would have {size} bytes and be {count}",
            code="attachments_full",
        )


def _logged(part: InputPart, file: _File, path: str | None) -> InputPart:
    """The part with a reference in the place of the file's bytes."""
    stored = replace(file.examined.stored, path=path)
    match part:
        case ImagePart():
            return ImagePart(media_type=stored.media_type, stored=stored)
        case ImageFilePart():
            return replace(part, filename=file.filename, stored=stored)
        case _:
            return FilePart(filename=file.filename, media_type=stored.media_type, stored=stored)


async def receive(
    app: App, caller: Caller, session_id: SessionId | None, content: tuple[InputPart, ...]
) -> Attachments:
    """Get the files of a message, and examine them.

    Args:
        session_id: the session; None if the message will create it.
        content: the checked parts.

    Raises:
        InvalidInput: a file cannot be had, is broken, or no model can get anything of it.
        NotFound: the session, an uploaded image or a path does not exist.
        TooLarge: a file, or all of them together, are over the limit.
        RateLimited: too many messages with files are arriving.
        Unavailable: it takes too long.
    """
    attached = [(index, part) for index, part in enumerate(content) if not isinstance(part, TextPart)]
    if not attached:
        return Attachments(content)
    if len(attached) > MAX_FILES:
        raise InvalidInput(f"a message may have at most {MAX_FILES} files", field="message.content")
    try:
        # Those of slow sites must not take the turns of those whose bytes are here.
        turns = app.fetching if any(_is_fetched(part) for _, part in attached) else app.receiving
        async with turns.turn(caller.organization_id), asyncio.timeout(PATIENCE):
            found = await _received(app, caller, session_id, attached)
    except TimeoutError:
        raise Unavailable("the message's files took too long: send fewer or smaller ones") from None
    for file in found.files:
        await stage_upload(app, caller.organization_id, file.examined.content)
    return replace(found, content=content)


def _is_fetched(part: AttachedPart) -> bool:
    url = None if isinstance(part, ImageFilePart) else part.url
    return url is not None and not _is_data(url)


def _is_data(url: str) -> bool:
    return url[:5].lower() == "data:"


async def _received(
    app: App, caller: Caller, session_id: SessionId | None, attached: list[tuple[int, AttachedPart]]
) -> Attachments:
    """Get the files one after another; return them without the message's parts."""
    source = _Source(app, caller, session_id)
    files: list[_File] = []
    external: tuple[External, ...] = ()
    left, personal = MAX_BYTES, False
    for index, part in attached:
        where = f"message.content[{index}]"
        arrived = await source.get(part, where)
        left -= len(arrived.data)
        if left < 0:
            raise too_large(MAX_BYTES)
        files.append(await _examined(app, caller.organization_id, index, part, arrived, where))
        external = with_sources(external, arrived.external)
        personal = personal or arrived.personal
    return Attachments((), tuple(files), external, personal)


async def _examined(
    app: Services, org_id: OrgId, index: int, part: AttachedPart, arrived: _Arrived, where: str
) -> _File:
    found = await examine(
        app,
        org_id,
        arrived.data,
        where,
        filename=arrived.filename,
        media_type=arrived.media_type,
        image=not isinstance(part, FilePart),
    )
    return _File(index, found, safe_name(arrived.filename, "") or None, arrived.path)


async def stage_upload(app: Services, org_id: OrgId, content: Content) -> None:
    """Upload a large content before a transaction that keeps it."""
    now = app.now()
    if len(content.data) > LONG:
        await app.database.write(lambda tx: stage_content(tx, org_id, content, now))


class _Source:
    """Gets the bytes of a message's files, from wherever the parts say."""

    def __init__(self, app: App, caller: Caller, session_id: SessionId | None) -> None:
        self._app, self._caller, self._session_id = app, caller, session_id
        self._org_id = caller.organization_id
        self._limit = app.file_limits.file
        self._rules: NetworkRules | None = None

    async def get(self, part: AttachedPart, where: str) -> _Arrived:
        """Get a file. Raises as `receive`."""
        if isinstance(part, ImageFilePart):
            return await self._uploaded(part, where)
        name = part.filename if isinstance(part, FilePart) else None
        if isinstance(part, FilePart) and part.path is not None:
            return await self._own(part, part.path, where)
        if part.base64 is not None:
            data = await asyncio.to_thread(_decoded, part.base64, self._limit, f"{where}.base64")
            return _Arrived(data, name, part.media_type)
        url = part.url or ""
        if _is_data(url):
            head, _, text = url[5:].partition(",")
            data = await asyncio.to_thread(_decoded, text, self._limit, f"{where}.url")
            return _Arrived(data, name, part.media_type or head.partition(";")[0])
        return await self._fetched(url, name, where)

    async def _uploaded(self, part: ImageFilePart, where: str) -> _Arrived:
        image_id = ImageId(check_id(part.image_id, "image", f"{where}.image_id"))

        async def work(tx: Tx) -> tuple[str, bytes]:
            row = await get_image(tx, self._org_id, self._caller.user_id, image_id)
            return row.filename, await read_content(tx, self._org_id, row.hash, row.size_bytes)

        filename, data = await self._app.database.read(work, long=True)
        return _Arrived(data, part.filename or filename)

    async def _own(self, part: FilePart, path: str, where: str) -> _Arrived:
        clean, session_id = clean_path(path, f"{where}.path"), self._session_id
        if session_id is None:
            raise _first(f"{where}.path")

        at = await with_mounts(self._app, self._caller, OfSession(session_id), clean)

        async def work(tx: Tx) -> tuple[FileRow, tuple[External, ...], bool]:
            view = await view_at(tx, self._caller, at, clean)
            row = await entry_at(tx, view, clean)
            if row.is_directory:
                raise is_a_folder(clean)
            memories = [each.row for each in view.seen if each.row is not None]
            if not memories:
                return row, await external_of_files(tx, self._org_id, view.space), False
            sources = tuple(source for each in memories for source in each.sources())
            return row, sources, any(each.scope == "user" for each in memories)

        row, external, personal = await self._app.database.read(work)
        if row.size_bytes > self._limit:
            raise too_large(self._limit)
        data = await content_of_row(self._app, row)
        return _Arrived(data, part.filename or name_of(clean), part.media_type, clean, external, personal)

    async def _fetched(self, url: str, name: str | None, where: str) -> _Arrived:
        field = f"{where}.url"
        if self._session_id is None:
            raise _first(field)
        if self._rules is None:
            self._rules = await self._app.database.read(self._read_rules)
        try:
            page = await fetch(url, self._rules, max_bytes=self._limit)
        except ToolError as error:
            raise InvalidInput(f"`{field}`: {error.message}", code="file_not_fetched", field=field) from None
        if page.status not in _OK:
            raise InvalidInput(
                f"`{field}`: the server answered with status {page.status}",
                code="file_not_fetched",
                field=field,
            )
        if page.truncated:
            raise too_large(self._limit)
        last = safe_name(unquote(posixpath.basename(urlsplit(page.url).path)), "")
        return _Arrived(page.body, name or last or None, external=(External(host_of(page.url) or ""),))

    async def _read_rules(self, tx: Tx) -> NetworkRules:
        if self._session_id is None:
            raise AssertionError("only sessions have rules")
        row = await get_session(tx, self._org_id, self._session_id)
        rules = combine(layer.network for layer in await read_layers(tx, row))
        return replace(rules, private=self._app.private_addresses)


def _first(field: str) -> InvalidInput:
    return InvalidInput(
        f"`{field}`: a message that creates its session cannot have files by path or URL: create the session "
        "first, or send the file in `base64`",
        field=field,
    )


def _decoded(text: str, limit: int, field: str) -> bytes:
    if len(text) // 4 * 3 - 2 > limit:
        raise too_large(limit)
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(
            f"`{field}` is not base64 (standard alphabet, padded, no line breaks)", field=field
        ) from None
    if len(data) > limit:
        raise too_large(limit)
    return data


async def _write(
    app: Services, tx: Tx, row: SessionRow, space: WorkspaceRow, attachments: Attachments, now: Micros
) -> list[str | None]:
    """Put the files into the session's workspace; return their paths.

    An archived one takes none, and one that others read takes none of a session that they do not read.
    """
    closed = attachments.personal or await reader_of(tx, row.id) is not None
    if space.status != "active" or (
        closed and space.session_id not in (row.id, row.root_session_id or row.id)
    ):
        return [file.path for file in attachments.files]
    await note_external(tx, space, with_sources(row.external_sources(), attachments.external))
    paths = await _paths(tx, space, attachments.files)
    writes = {
        path: FileWrite(path, file.examined.content)
        for file, (path, exists) in zip(attachments.files, paths, strict=True)
        if path is not None and not exists
    }
    if writes:
        await write_files(tx, space, tuple(writes.values()), app.file_limits, now)
    return [path for path, _ in paths]


async def _paths(tx: Tx, space: WorkspaceRow, files: tuple[_File, ...]) -> list[tuple[str | None, bool]]:
    """Find a path for each file, and whether it is there already. One whose names are all taken gets none."""
    choices = [_choices(file) for file in files]
    entries = await get_entries(tx, space.org_id, space.id, [FOLDER, *itertools.chain(*choices)])
    if FOLDER in entries and not entries[FOLDER].is_directory:
        return [(file.path, True) for file in files]
    taken = {path: entry.hash for path, entry in entries.items()}
    found: list[tuple[str | None, bool]] = []
    for file, options in zip(files, choices, strict=True):
        if file.path is not None:
            found.append((file.path, True))
            continue
        digest = file.examined.content.hash
        path = next((each for each in options if taken.get(each, digest) == digest), None)
        found.append((path, path in taken))
        if path is not None:
            taken[path] = digest
    return found


def _choices(file: _File) -> list[str]:
    """The paths that a file may get: under its own name, or with a part of its digest if that is taken."""
    stored = file.examined.stored
    digest, end = stored.digest, extension_of(stored.media_type)
    plain = safe_name(file.filename, f"file-{digest[:8]}{end or '.txt'}")
    stem, dot, ending = plain.rpartition(".")
    stem, ending = (stem, dot + ending) if dot and stem else (plain, "")
    names = (plain, f"{stem}-{digest[:8]}{ending}", f"{stem}-{digest[:16]}{ending}")
    return [f"{FOLDER}/{name}" for name in names]


def safe_name(filename: str | None, instead: str) -> str:
    """Return a name that files may have, without folders; `instead` if nothing of the name can be used."""
    last = (filename or "").replace("\\", "/").rpartition("/")[2].strip()[-MAX_FILENAME:].strip(" .")
    while len(last.encode("utf-8", "replace")) > MAX_FILENAME:
        last = last[1:]
    try:
        clean = clean_path(last) if last else "/"
    except PerdureError:
        return instead
    return instead if clean == "/" else name_of(clean)
