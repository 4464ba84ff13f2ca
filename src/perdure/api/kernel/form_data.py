"""Forms that have arrived already, of which one file is wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec import Struct

from perdure.api.kernel.multipart import Multipart, MultipartLimits
from perdure.domain.errors import InvalidInput, TooLarge, UnsupportedMedia

LIMITS = MultipartLimits(parts=20)


class _Arrived(Struct, frozen=True):
    """A body in memory, as `Multipart` reads it."""

    content_type: bytes
    data: bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.data


async def file_of_form(content_type: str, body: bytes) -> bytes:
    """Return the content of the only file in a form.

    Args:
        content_type: the header, with its boundary.

    Raises:
        InvalidInput: the form cannot be read, or does not have one file.
    """
    try:
        form = Multipart(_Arrived(content_type.encode("latin-1", "replace"), body), LIMITS)
        files = [await part.read(len(body)) async for part in form if part.filename is not None]
    except (InvalidInput, TooLarge, UnsupportedMedia) as error:
        raise _refused(error.message) from None
    if len(files) != 1:
        raise _refused(f"it has {len(files)} files instead of one")
    return files[0]


def _refused(why: str) -> InvalidInput:
    return InvalidInput(f"the form cannot be read: {why}", code="invalid_form")
