"""A session's metadata: the client's own names and texts, for finding sessions again."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from perdure.domain.errors import InvalidInput

MAX_ENTRIES = 50
MAX_VALUE = 500

_DECODER = msgspec.json.Decoder(dict[str, str])
_KEY = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")

MetadataValue = Annotated[str, Meta(max_length=MAX_VALUE)]
METADATA = Meta(
    description=(
        "The client's own names and texts: at most 50, with names of up to 64 letters, digits and `_.:/-`."
    ),
    examples=[{"customer": "4711"}],
)


def read_metadata(stored: str) -> dict[str, str]:
    """Decode metadata as they are stored."""
    return {} if stored == "{}" else _DECODER.decode(stored)


def clean_metadata(changes: dict[str, str] | dict[str, str | None], before: dict[str, str]) -> dict[str, str]:
    """Return the metadata after a change, sorted by name. A name with None is removed.

    Raises:
        InvalidInput: a name is malformed, or there would be too many.
    """
    for name in changes:
        if not _KEY.fullmatch(name):
            raise InvalidInput(
                f"`metadata`: the name {name[:80]!r} must be 1 to 64 letters, digits or characters of _.:/-",
                field="metadata",
            )
    merged = {**before, **changes}
    after = {name: value for name, value in sorted(merged.items()) if value is not None}
    if len(after) > MAX_ENTRIES:
        raise InvalidInput(f"`metadata` must have at most {MAX_ENTRIES} entries", field="metadata")
    return after
