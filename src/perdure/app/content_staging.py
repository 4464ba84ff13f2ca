"""Stores many contents, or long ones, before the transaction that needs them, in small transactions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from perdure.app.context import Services
from perdure.domain.files import Content, Uploaded
from perdure.domain.ids import OrgId
from perdure.store.blobs import PART, stage_contents
from perdure.store.uploads import KEY, add_parts, split, stage_upload

MANY, BYTES = 200, 4 * PART
"""Contents, and their bytes, of one transaction. All other writers of SQLite wait for it, about 3 ms for each
MB, and a turn waits several times."""


async def stage_all(app: Services, org_id: OrgId, contents: Sequence[Content]) -> None:
    """Store contents, so that the transaction that needs them only refers to them.

    Does nothing for a few short ones. If no transaction keeps them, they are purged like contents that lost
    their last reference.
    """
    if len(contents) <= MANY and sum(each.size_bytes for each in contents) <= BYTES:
        return
    allowed = [each for each in contents if each.size_bytes <= app.file_limits.file]
    for batch in _batches([each for each in allowed if each.size_bytes <= BYTES]):
        await app.database.write(partial(stage_contents, org_id=org_id, contents=batch, now=app.now()))
    for content in allowed:
        if content.size_bytes > BYTES:
            await _in_parts(app, org_id, content)


async def _in_parts(app: Services, org_id: OrgId, content: Content) -> None:
    key, view = KEY + app.new_id("file")[-32:], memoryview(content.data)
    for at in range(0, len(view), BYTES):
        parts = split(view[at : at + BYTES])
        await app.database.write(
            partial(add_parts, org_id=org_id, key=key, before=at, parts=parts, now=app.now())
        )
    whole = Uploaded(key, content.hash, content.is_text, content.size_bytes)
    await app.database.write(partial(stage_upload, org_id=org_id, uploaded=whole, now=app.now()))


def _batches(contents: Sequence[Content]) -> Iterator[list[Content]]:
    batch, size = list[Content](), 0
    for content in contents:
        if batch and (len(batch) == MANY or size + content.size_bytes > BYTES):
            yield batch
            batch, size = [], 0
        batch.append(content)
        size += content.size_bytes
    if batch:
        yield batch
