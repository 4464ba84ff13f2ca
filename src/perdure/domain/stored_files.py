"""What the log says about a file that came with a message: where its bytes are, never the bytes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

TEXT_BYTES = 3
"""About how many bytes of text in UTF-8 are a token: on the high side for English."""
PAGE_TOKENS = 700
"""About how many tokens vendors charge for the picture of a page, beside its text."""
IMAGE_TOKENS = 1_000
"""About how many tokens vendors charge for an image of usual size."""
AUDIO_BYTES = 1_600
"""About how many bytes of compressed sound vendors charge a token for."""
MAX_PAGES = 100
"""The most pages that vendors read as a document; of a longer one, the model gets the text."""


class StoredFile(Struct, frozen=True, gc=False, omit_defaults=True):
    """A file of a message, by the SHA-256 of its content. The session keeps the content as long as it lives.

    Attributes:
        text: the digest of the text that was extracted from it, which is stored in the same way.
        text_cut: whether the text was too long, so that only its beginning is kept.
    """

    digest: Annotated[str, Meta(description="The SHA-256 of the content, in hex.")]
    size_bytes: Annotated[int, Meta(description="The size in bytes.")]
    media_type: Annotated[str, Meta(description="The media type, as the content shows it.")]
    path: Annotated[
        str | None, Meta(description="Where the session's files have it, so that tools can read it.")
    ] = None
    width: Annotated[int | None, Meta(description="The width of an image, in pixels.")] = None
    height: Annotated[int | None, Meta(description="The height of an image, in pixels.")] = None
    pages: Annotated[int | None, Meta(description="The number of pages or slides of a document.")] = None
    text: Annotated[str | None, Meta(description="The SHA-256 of the extracted text, in hex.")] = None
    text_bytes: Annotated[int, Meta(description="The size of the extracted text in bytes, in UTF-8.")] = 0
    text_cut: Annotated[
        bool, Meta(description="Whether only the beginning of the text was kept, because it is long.")
    ] = False
    note: Annotated[str | None, Meta(description="Why no text could be extracted.")] = None

    @property
    def kind(self) -> str:
        """`image`, `pdf`, `audio` or `text`: what a model must be able to read to get it as it is."""
        if self.media_type == PDF:
            return "pdf"
        first = self.media_type.partition("/")[0]
        return first if first in ("image", "audio") and self.text is None else "text"

    def tokens(self) -> int:
        """Estimate its tokens in a prompt."""
        if self.kind == "image":
            return IMAGE_TOKENS
        if self.kind == "audio":
            return self.size_bytes // AUDIO_BYTES
        return self.text_bytes // TEXT_BYTES + PAGE_TOKENS * min(self.pages or 0, MAX_PAGES)


PDF = "application/pdf"
