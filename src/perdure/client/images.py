"""Files for messages: uploaded images, and parts that bring a file with them."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

from perdure.client.routes import Caller, path_of
from perdure.client.transport import Streamed
from perdure.domain.images import ImageInfo, ImageUploadResponse
from perdure.domain.messages import FilePart

_IMAGE = "/v1/images/{}"


def attachment(
    source: bytes | str | Path, filename: str | None = None, media_type: str | None = None
) -> FilePart:
    """Make the part of a message that brings a file with it.

        await client.ask(session.id, [TextPart("What does it say?"), attachment("report.pdf")])

    This is for files of up to 7 MB. Upload a larger one with `upload_file`, and send `FilePart(path=...)`.

    Args:
        source: the content, or the path of a local file, which is read at once.
        filename: the file's name; by default that of the local file.
        media_type: its type; the server finds it out by itself.

    Raises:
        OSError: the local file cannot be read.
    """
    if isinstance(source, bytes):
        data = source
    else:
        path = Path(source)
        data, filename = path.read_bytes(), filename or path.name
    return FilePart(base64=base64.b64encode(data).decode(), filename=filename, media_type=media_type)


class ImageMethods(Caller):
    """The client's methods about uploaded images."""

    async def upload_image(
        self, source: bytes | str | Path, filename: str | None = None, *, session_id: str | None = None
    ) -> ImageUploadResponse:
        """Upload a PNG, JPEG, GIF or WebP image. A message refers to it with `ImageFilePart(image_id)`.

        Args:
            source: the content, or the path of a local file.
            filename: the image's name; by default that of the local file.
            session_id: the session that the image is deleted with; by default it stays until it is deleted.

        Raises:
            ApiError: it is no image, or is too large.
            OSError: the local file cannot be read.
        """
        part = attachment(source, filename)
        boundary = secrets.token_hex(16)
        name = quote(part.filename or "image", safe=" .-_()")
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        form = head.encode() + base64.b64decode(part.base64 or "") + f"\r\n--{boundary}--\r\n".encode()

        async def pieces() -> AsyncIterator[bytes]:
            yield form

        body = Streamed(pieces, len(form), f"multipart/form-data; boundary={boundary}")
        params = [("session_id", session_id)]
        return await self.call("POST", "/v1/images", ImageUploadResponse, params=params, body=body)

    async def list_images(self, *, offset: int = 0, limit: int = 20) -> tuple[ImageInfo, ...]:
        """List the organization's images, newest first."""
        params = [("offset", offset), ("limit", limit)]
        return await self.call("GET", "/v1/images", tuple[ImageInfo, ...], params=params)

    async def get_image(self, image_id: str) -> bytes:
        """Return an image's bytes."""
        return await self.transport.request("GET", path_of(_IMAGE, image_id))

    async def get_thumbnail(self, image_id: str) -> bytes:
        """Return a JPEG of at most 256 pixels on a side. Raises NotFound: the server could not make one."""
        return await self.transport.request("GET", path_of(_IMAGE + "/thumbnail", image_id))

    async def delete_image(self, image_id: str) -> None:
        """Delete an image. Messages that have it keep it."""
        await self.transport.request("DELETE", path_of(_IMAGE, image_id))
