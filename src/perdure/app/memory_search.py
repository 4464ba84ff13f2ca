"""Searches the files of a memory."""

from __future__ import annotations

from perdure.app.context import App
from perdure.app.file_access import OfMemory
from perdure.app.file_search import grep
from perdure.app.memories import visible_memory
from perdure.domain.accounts import Caller
from perdure.domain.files import GrepFiles
from perdure.domain.ids import MemoryId
from perdure.domain.memories import MemoryGrepResult
from perdure.store.database import Tx
from perdure.store.files import get_entries

MAX_LINES = 10_000
"""Matching lines after which a search ends. Files of which only later lines match are left out."""


async def grep_memory(
    app: App, caller: Caller, memory_id: MemoryId, body: GrepFiles
) -> list[MemoryGrepResult]:
    """Find the files that have a matching line. Raises InvalidInput and NotFound."""
    memory = await app.database.read(lambda tx: visible_memory(tx, caller, memory_id))
    at = OfMemory(memory.place())
    search = await grep(app, caller, at, body.pattern, glob=body.path_pattern, limit=MAX_LINES)
    paths = [each.path for each in search.files]

    async def sizes(tx: Tx) -> dict[str, int]:
        rows = await get_entries(tx, memory.org_id, memory.place(), paths)
        return {path: row.size_bytes for path, row in rows.items()}

    known = await app.database.read(sizes)
    return [MemoryGrepResult(path, known[path]) for path in paths if path in known]
