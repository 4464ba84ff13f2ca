"""Images that a model's vendor would refuse for their size or format, made smaller in the sandbox."""

from __future__ import annotations

import asyncio

from perdure.domain.errors import ToolError, Unavailable
from perdure.domain.ids import OrgId
from perdure.domain.stored_files import StoredFile
from perdure.llm.carried import Carried
from perdure.sandbox.media import SECONDS, Scaled, ScaleJob
from perdure.sandbox.pool import Sandbox

SIDE = 2_048
"""Pixels of the longer side of an image that is made smaller: most vendors scale larger ones down to less."""
PATIENCE = 60.0
"""Seconds that a call waits for an image: then it is left out of this call."""


def must_be_scaled(stored: StoredFile, carried: Carried, side: int) -> bool:
    """Whether the vendor would refuse this image as it is. `side`: pixels that it accepts on a side."""
    return (
        stored.media_type not in carried.images
        or stored.size_bytes > carried.image_bytes
        or max(stored.width or 0, stored.height or 0) > side
    )


class ImageScaler:
    """Makes images smaller."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def scaled(self, org_id: OrgId, media_type: str, data: bytes, side: int, most: int) -> bytes:
        """Return an image as a JPEG of at most `side` pixels on a side and `most` bytes.

        Raises:
            ToolError: it cannot be done with this image; the message completes "because".
            Unavailable: it was not done now: its process was not started, or was killed.
            TimeoutError: the sandbox is too busy.
        """
        job = ScaleJob(media_type, data, min(side, SIDE), most)
        async with asyncio.timeout(PATIENCE):
            async with self._sandbox.slot((org_id, f"files of {org_id}"), 3 * len(data)):
                try:
                    return (await self._sandbox.run(job, Scaled, SECONDS)).jpeg
                except ToolError as error:
                    # The sandbox's own failures are whole sentences.
                    if error.message[:1].isupper():
                        raise Unavailable("it could not be made smaller") from None
                    raise
