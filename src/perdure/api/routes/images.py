"""Routes of uploaded images."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.asgi import Header
from perdure.api.kernel.body_stream import BodyStream
from perdure.api.kernel.call import Call, Chunked, Reply
from perdure.api.kernel.decoding import MAX_BODY
from perdure.api.kernel.entity_tags import etag_header, is_known
from perdure.api.kernel.multipart import Multipart
from perdure.api.kernel.route import route
from perdure.app import images as use
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import ImageId, SessionId, check_id, id_schema
from perdure.domain.images import ImageInfo, ImageUploadResponse

_SAFE: tuple[Header, ...] = (
    (b"content-security-policy", b"default-src 'none'; sandbox"),
    (b"cache-control", b"private, max-age=86400, immutable"),
)
"""Images come from users: a browser may show them as what they are, and nothing else."""


class UploadQuery(Struct, frozen=True):
    """Query parameters of an upload."""

    session_id: Annotated[
        Annotated[str, id_schema("session")] | None,
        Meta(description="The session that the image belongs to: it is deleted with the session."),
    ] = None


class ImagePage(Struct, frozen=True):
    """Query parameters of the list."""

    limit: Annotated[int, Meta(description="The maximum number of images.", ge=1, le=100)] = 20
    offset: Annotated[int, Meta(description="The number of images to skip.", ge=0, le=1_000_000)] = 0


@route(
    "POST",
    "/v1/images",
    "images",
    status=201,
    errors=(400, 404, 409, 413, 415),
    stream_limit=MAX_BODY,
    replayable=False,
)
async def upload_image(call: Call, query: UploadQuery, body: BodyStream) -> ImageUploadResponse:
    """Upload an image.

    A form of up to 10 MB with the image in the field `file`: a PNG, JPEG, GIF or WebP image, as its content
    shows. A message refers to it with a part of the type `image_file`.
    """
    session_id = None if query.session_id is None else check_id(query.session_id, "session", "session_id")
    data: bytes | None = None
    filename: str | None = None
    async for part in Multipart(body):
        if data is None and (part.filename is not None or part.name in ("file", "image")):
            filename = part.filename
            data = await part.read(call.app.file_limits.file)
    if data is None:
        raise InvalidInput("the form needs a field `file` with the image", code="missing_file", field="file")
    owner = None if session_id is None else SessionId(session_id)
    return await use.upload_image(call.app, call.caller, data, filename, owner)


@route("GET", "/v1/images", "images")
async def list_images(call: Call, query: ImagePage) -> tuple[ImageInfo, ...]:
    """List the organization's images.

    Newest first.
    """
    return await use.list_images(call.app, call.caller, query.offset, query.limit)


@route("GET", "/v1/images/{image_id}", "images", errors=(404,), content="image/*", etag=True)
async def get_image(call: Call, image_id: ImageId) -> Chunked[bytes]:
    """Get an image's bytes.

    With its media type. The entity tag is the SHA-256 of the content.
    """
    row, parts = await use.open_image(call.app, call.caller, image_id)
    return Chunked(parts, row.content_type.encode(), row.hash, _SAFE, row.size_bytes)


@route("GET", "/v1/images/{image_id}/thumbnail", "images", errors=(404,), content="image/jpeg", etag=True)
async def get_thumbnail(call: Call, image_id: ImageId) -> Reply:
    """Get a thumbnail of an image.

    A JPEG of at most 256 pixels on a side. 404 if the server had no library to make one.
    """
    hash_, data = await use.read_thumbnail(call.app, call.caller, image_id)
    if is_known(call.headers, hash_):
        return Reply(b"", 304, headers=etag_header(hash_))
    return Reply(data, content_type=b"image/jpeg", headers=(*_SAFE, *etag_header(hash_)))


@route("DELETE", "/v1/images/{image_id}", "images", errors=(404,))
async def delete_image(call: Call, image_id: ImageId) -> None:
    """Delete an image.

    New messages cannot refer to it any more. Messages that have it keep it, as long as their sessions live.
    """
    await use.delete_image(call.app, call.caller, image_id)


ROUTES = (upload_image, list_images, get_image, get_thumbnail, delete_image)
