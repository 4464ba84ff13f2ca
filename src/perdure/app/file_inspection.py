"""Finds out what a file is: its type by its content, and what is inside, which the sandbox reads."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from perdure.app.context import Services
from perdure.domain.errors import InvalidInput, ToolError, Unavailable
from perdure.domain.file_types import ACCEPTED, FileType, contradicts, file_type
from perdure.domain.files import Content, content_of
from perdure.domain.ids import OrgId
from perdure.domain.media import FORMATS
from perdure.domain.stored_files import StoredFile
from perdure.sandbox.media import MAX_CHARACTERS, SECONDS, Inspected, InspectJob

PATIENCE = 90.0
"""Seconds until a request gives up whose file waits for the sandbox."""


class Examined(Struct, frozen=True):
    """A file whose content is known. `text`: the text of a document, cut to the limit."""

    content: Content
    stored: StoredFile
    text: Content | None = None
    thumbnail: bytes = b""


async def examine(
    app: Services,
    org_id: OrgId,
    data: bytes,
    where: str,
    *,
    filename: str | None = None,
    media_type: str | None = None,
    image: bool = False,
    thumbnail: bool = False,
) -> Examined:
    """Look into a file.

    Args:
        where: the field that the file is in, for errors.
        media_type: what the client says; the content decides.
        image: whether only an image will do.
        thumbnail: whether to make a thumbnail of an image.

    Raises:
        InvalidInput: the file is broken, over a limit, of a type that is not accepted, or not what it says.
        Unavailable: the sandbox is too busy.
    """
    content, found = await asyncio.to_thread(lambda: (content_of(data), file_type(data, filename)))
    if found is None or (image and found.kind != "image"):
        wanted = FORMATS if image else ACCEPTED
        raise _bad(where, f"is none of these, or not complete: {wanted}")
    inside = await _inside(app, org_id, data, found, where, thumbnail=thumbnail)
    stated = (media_type or "").partition(";")[0].strip().lower()
    if contradicts(stated, inside.media_type):
        raise _bad(where, f"has the media type {stated}, but its content is {inside.media_type}")
    text = None if inside.text is None else await asyncio.to_thread(content_of, inside.text.encode())
    stored = StoredFile(
        content.hash,
        len(data),
        inside.media_type,
        width=inside.width or None,
        height=inside.height or None,
        pages=inside.pages or None,
        text=None if text is None else text.hash,
        text_bytes=0 if text is None else len(text.data),
        text_cut=inside.cut,
        note=inside.note,
    )
    return Examined(content, stored, text, inside.thumbnail)


async def _inside(
    app: Services, org_id: OrgId, data: bytes, found: FileType, where: str, *, thumbnail: bool
) -> Inspected:
    if found.kind == "audio":
        return Inspected(found.media_type)
    if found.text is not None:
        cut = len(found.text) > MAX_CHARACTERS
        return Inspected(found.media_type, text=found.text[:MAX_CHARACTERS], cut=cut)
    job = InspectJob(found.kind, found.media_type, data, thumbnail)
    try:
        async with asyncio.timeout(PATIENCE):
            # Not a share of the session: the files of messages do not wait for its tools.
            async with app.sandbox.slot((org_id, f"files of {org_id}"), 3 * len(data)):
                return await app.sandbox.run(job, Inspected, SECONDS)
    except ToolError as error:
        # The sandbox's own failures are whole sentences.
        own = error.message[:1].isupper()
        raise _bad(where, f"cannot be read. {error.message}" if own else error.message) from None
    except TimeoutError:
        raise Unavailable("too many files are being read: try again later", retry_after=10) from None


def _bad(where: str, problem: str) -> InvalidInput:
    return InvalidInput(f"`{where}`: the file {problem}", code="invalid_file", field=where)
