"""Uploaded images, which messages refer to by their id."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from perdure.app.attachments import safe_name, stage_upload
from perdure.app.confidential import check_reader
from perdure.app.context import App
from perdure.app.file_inspection import examine
from perdure.app.idempotency import Once, write_once
from perdure.domain.accounts import Caller
from perdure.domain.errors import Conflict, NotFound
from perdure.domain.file_types import extension_of
from perdure.domain.files import content_of
from perdure.domain.ids import ImageId, SessionId
from perdure.domain.images import MAX_IMAGE_BYTES, MAX_IMAGES, ImageInfo, ImageUploadResponse
from perdure.domain.messages import JsonObject
from perdure.domain.times import to_rfc3339
from perdure.store import images as store
from perdure.store.accounts import lock_organization
from perdure.store.blobs import parts_of, read_content, read_part
from perdure.store.content_holds import hold_contents
from perdure.store.database import Tx
from perdure.store.images import ImageRow
from perdure.store.sessions import get_session


async def upload_image(
    app: App,
    caller: Caller,
    data: bytes,
    filename: str | None,
    session_id: SessionId | None,
    once: Once | None = None,
) -> ImageUploadResponse:
    """Store an image, and a thumbnail of it.

    Args:
        session_id: the session that the image ends with; None keeps it until it is deleted.

    Raises:
        InvalidInput: it is no complete image, or over a limit.
        NotFound: the session does not exist.
        Conflict: the organization has too many images.
    """
    org_id = caller.organization_id
    if session_id is not None:
        await app.database.read(lambda tx: get_session(tx, org_id, session_id))
        await check_reader(app, caller, session_id)
    found = await examine(app, org_id, data, "file", image=True, thumbnail=True)
    await stage_upload(app, org_id, found.content)
    stored, small, now = found.stored, content_of(found.thumbnail), app.now()
    row = ImageRow(
        app.new_id("image"),
        org_id,
        session_id,
        safe_name(filename, f"image{extension_of(stored.media_type)}"),
        stored.media_type,
        stored.size_bytes,
        stored.width or 0,
        stored.height or 0,
        stored.digest,
        small.hash if small.data else None,
        len(small.data),
        now,
    )

    async def work(tx: Tx) -> ImageUploadResponse:
        await lock_organization(tx, org_id)  # uploads count one after another
        if session_id is not None:
            await get_session(tx, org_id, session_id, lock=True)  # it must not be deleted meanwhile
        count, size = await store.count_images(tx, org_id)
        if count >= MAX_IMAGES or size + row.size_bytes > MAX_IMAGE_BYTES:
            raise Conflict(
                f"the organization has {count} images with {size} bytes; the limits are {MAX_IMAGES} images "
                f"and {MAX_IMAGE_BYTES} bytes: delete some first",
                code="too_many_images",
            )
        await store.add_image(tx, row)
        await hold_contents(tx, org_id, row.id, (found.content, *((small,) if small.data else ())), now)
        return ImageUploadResponse(
            row.id, row.filename, row.content_type, row.size_bytes, to_rfc3339(row.created_at)
        )

    return await write_once(app, once, work)


async def list_images(app: App, caller: Caller, offset: int, limit: int) -> tuple[ImageInfo, ...]:
    """Return a page of the organization's images, newest first."""
    rows = await app.database.read(
        lambda tx: store.list_images(tx, caller.organization_id, caller.user_id, offset, limit)
    )
    return tuple(map(_info, rows))


def _info(row: ImageRow) -> ImageInfo:
    metadata: JsonObject = {
        "width": row.width,
        "height": row.height,
        "has_thumbnail": row.thumbnail is not None,
    }
    if row.session_id is not None:
        metadata["session_id"] = row.session_id
    return ImageInfo(
        row.id, row.filename, row.content_type, row.size_bytes, metadata, to_rfc3339(row.created_at)
    )


async def open_image(app: App, caller: Caller, image_id: ImageId) -> tuple[ImageRow, AsyncIterator[bytes]]:
    """Return an image with its bytes, which are read while they are taken. Raises NotFound."""
    org_id, user_id = caller.organization_id, caller.user_id
    row = await app.database.read(lambda tx: store.get_image(tx, org_id, user_id, image_id))

    async def parts() -> AsyncIterator[bytes]:
        for number in range(parts_of(row.size_bytes)):
            read = partial(read_part, org_id=row.org_id, hash_=row.hash, part=number)
            yield await app.database.read(read, long=True)

    return row, parts()


async def read_thumbnail(app: App, caller: Caller, image_id: ImageId) -> tuple[str, bytes]:
    """Return the hash and the bytes of an image's thumbnail. Raises NotFound: there is none."""

    async def work(tx: Tx) -> tuple[str, bytes]:
        row = await store.get_image(tx, caller.organization_id, caller.user_id, image_id)
        if row.thumbnail is None:
            raise NotFound(
                "thumbnail: the server had no library to make one (perdure[documents]) when the image was "
                "uploaded",
                code="thumbnail_not_found",
            )
        return row.thumbnail, await read_content(tx, row.org_id, row.thumbnail, row.thumbnail_bytes)

    return await app.database.read(work)


async def delete_image(app: App, caller: Caller, image_id: ImageId) -> None:
    """Delete an image. Messages that have it keep it, as long as their sessions live. Raises NotFound."""
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await store.get_image(tx, caller.organization_id, caller.user_id, image_id)
        await store.remove_image(tx, row.org_id, row.id, now)

    await app.database.write(work)
