"""Rows of uploaded images. Their bytes are in `blobs`, held under the image's id."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.errors import NotFound
from perdure.domain.ids import ImageId, OrgId, SessionId, UserId
from perdure.domain.times import Micros
from perdure.store.confidential import VISITED
from perdure.store.content_holds import drop_holds
from perdure.store.database import Tx
from perdure.store.rows import columns, insert, values


class ImageRow(Struct, frozen=True):
    """An image. `thumbnail` is the hash of a small JPEG; None if the server could not make one."""

    id: ImageId
    org_id: OrgId
    session_id: SessionId | None
    filename: str
    content_type: str
    size_bytes: int
    width: int
    height: int
    hash: str
    thumbnail: str | None
    thumbnail_bytes: int
    created_at: Micros


_COLUMNS = columns(ImageRow)
_INSERT = insert("images", ImageRow)
_OPEN = (
    "NOT EXISTS (SELECT 1 FROM sessions s JOIN confidential_sessions c"
    " ON c.session_id = COALESCE(s.root_session_id, s.id)"
    f" WHERE s.id = images.session_id AND c.user_id <> '{VISITED}' AND c.user_id <> ?)"
)
"""That the image is not of a session that is closed to a user, for one argument: the user's id."""


async def add_image(tx: Tx, row: ImageRow) -> None:
    await tx.run(_INSERT, *values(row))


async def get_image(tx: Tx, org_id: OrgId, user_id: UserId, image_id: ImageId) -> ImageRow:
    """Return an image that the user may see. Raises NotFound."""
    sql = f"SELECT {_COLUMNS} FROM images WHERE id = ? AND org_id = ? AND {_OPEN}"
    found = await tx.one(sql, image_id, org_id, user_id)
    if found is None:
        raise NotFound("image")
    return ImageRow(*found)


async def list_images(tx: Tx, org_id: OrgId, user_id: UserId, offset: int, limit: int) -> list[ImageRow]:
    """Return a page of the images that the user may see, newest first."""
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM images WHERE org_id = ? AND {_OPEN}"
        " ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?",
        org_id,
        user_id,
        limit,
        offset,
    )
    return [ImageRow(*row) for row in rows]


async def count_images(tx: Tx, org_id: OrgId) -> tuple[int, int]:
    """Return the number of the organization's images, and their bytes."""
    sql = "SELECT COUNT(*), COALESCE(SUM(size_bytes), 0) FROM images WHERE org_id = ?"
    row = await tx.one(sql, org_id)
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


async def remove_image(tx: Tx, org_id: OrgId, image_id: ImageId, now: Micros) -> int:
    """Remove an image; return 1 if it was there, else 0."""
    gone = await tx.run("DELETE FROM images WHERE id = ? AND org_id = ?", image_id, org_id)
    await drop_holds(tx, org_id, image_id, now)
    return gone


async def remove_images_of(tx: Tx, org_id: OrgId, session_id: SessionId, now: Micros) -> None:
    """Remove the images that were uploaded for a session."""
    sql = "SELECT id FROM images WHERE session_id = ? AND org_id = ? ORDER BY id"
    for row in await tx.all(sql, session_id, org_id):
        await remove_image(tx, org_id, row[0], now)
