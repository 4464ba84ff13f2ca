"""Uploaded images: wire formats and limits."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.domain.ids import ImageId
from perdure.domain.messages import JsonObject
from perdure.domain.times import CreatedAt

MAX_IMAGES = 10_000
"""Images of one organization."""
MAX_IMAGE_BYTES = 2_000_000_000
"""Bytes of all images of one organization."""

_ID = Annotated[
    ImageId, Meta(description="The image's id.", examples=["image_0192f0c1b2a37b5c8d4e5f60718293a4"])
]
_FILENAME = Annotated[
    str, Meta(description="The image's file name, as it was uploaded.", examples=["photo.png"])
]
_TYPE = Annotated[
    str, Meta(description="The media type, as the image's content shows it.", examples=["image/png"])
]
_SIZE = Annotated[int, Meta(description="The size in bytes.", examples=[48213])]


class ImageUploadResponse(Struct, frozen=True):
    """An image that was just uploaded."""

    id: _ID
    filename: _FILENAME
    content_type: _TYPE
    size_bytes: _SIZE
    created_at: CreatedAt


class ImageInfo(Struct, frozen=True):
    """An uploaded image, without its bytes."""

    id: _ID
    filename: _FILENAME
    content_type: _TYPE
    size_bytes: _SIZE
    metadata: Annotated[
        JsonObject,
        Meta(
            description=(
                "What else is known: `width` and `height` in pixels, whether it `has_thumbnail`, and the"
                " `session_id` that it was uploaded for."
            ),
            examples=[{"width": 800, "height": 600, "has_thumbnail": True}],
        ),
    ]
    created_at: CreatedAt
