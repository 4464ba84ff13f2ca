"""Files that a vendor gets as they are: documents and sound."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from perdure.domain.errors import ModelError
from perdure.domain.messages import FilePart

SOUND_FORMATS: Mapping[str, str] = MappingProxyType(
    {"audio/wav": "wav", "audio/mpeg": "mp3", "audio/flac": "flac", "audio/ogg": "ogg", "audio/mp4": "m4a"}
)
"""The names that vendors use in place of the media types of sound."""


def file_data(part: FilePart) -> tuple[str, str, str]:
    """Return name, media type and base64 data of a file that is sent as it is.

    Raises:
        ModelError: the file has no data: the caller must have resolved it.
    """
    if not part.base64 or not part.media_type:
        raise ModelError("a file was not resolved before the call", code="invalid_model_request")
    return part.filename or "file", part.media_type, part.base64
