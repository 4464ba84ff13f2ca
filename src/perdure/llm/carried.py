"""What each protocol carries besides text, and how much of it its vendor accepts in one call.

The numbers are those of the vendors' documentation. What is over them is not sent: images are made smaller,
documents become their text. A vendor that accepts less refuses the call, and the next one has less.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.model_profiles import Modality
from perdure.domain.stored_files import MAX_PAGES

TOTAL = 22_000_000
"""Bytes of all files of a call: with base64 and text, this stays below the 32 MB that Anthropic accepts in a
request and the 50 MB of OpenAI."""
LITTLE = 14_000_000
"""Bytes of all files of a call to vendors that accept 20 MB in a request."""


class Carried(Struct, frozen=True):
    """What can be sent as it is.

    Attributes:
        kinds: what can be sent at all, if the model reads it.
        images, sounds: the media types that are accepted.
        image_bytes: bytes of one image.
        side: pixels of the longer side of an image.
        many, side_of_many: with more images than `many` in a call, each has at most `side_of_many` pixels on
            its longer side.
        most_images: images of a call.
        document_bytes: bytes of one document.
        pages: pages of a document.
        documents: documents of a call.
        total_bytes: bytes of all files of a call.
    """

    kinds: frozenset[Modality] = frozenset({"image", "pdf"})
    images: frozenset[str] = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
    sounds: frozenset[str] = frozenset({"audio/wav", "audio/mpeg"})
    image_bytes: int = 7_000_000
    side: int = 16_000
    many: int = 100
    side_of_many: int = 16_000
    most_images: int = 100
    document_bytes: int = 20_000_000
    pages: int = MAX_PAGES
    documents: int = 100
    total_bytes: int = TOTAL


ONLY_IMAGES = Carried(kinds=frozenset({"image"}))

WITH_SOUND = Carried(kinds=frozenset({"image", "pdf", "audio"}))

ANTHROPIC = Carried(
    image_bytes=3_750_000,  # 5 MB in base64
    side=8_000,
    many=20,
    side_of_many=2_000,
)
"""https://platform.claude.com/docs/en/build-with-claude/vision"""

GEMINI = Carried(
    kinds=frozenset({"image", "pdf", "audio"}),
    images=frozenset({"image/png", "image/jpeg", "image/webp"}),
    sounds=frozenset({"audio/wav", "audio/mpeg", "audio/flac", "audio/ogg"}),
    document_bytes=LITTLE,
    total_bytes=LITTLE,
)
"""https://ai.google.dev/gemini-api/docs: image-understanding, document-processing and audio"""

BEDROCK = Carried(
    kinds=frozenset({"image", "pdf", "audio"}),
    sounds=frozenset({"audio/wav", "audio/mpeg", "audio/flac", "audio/ogg", "audio/mp4"}),
    image_bytes=3_750_000,
    side=8_000,
    many=20,
    most_images=20,
    document_bytes=4_500_000,
    documents=5,
    total_bytes=LITTLE,
)
"""https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Message.html"""
