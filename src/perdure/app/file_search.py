"""Looking through a workspace's files: by what is in them, and by their paths.

Bounded in time and in what is found.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from msgspec import Struct

from perdure.app.context import Scope, Services
from perdure.app.file_access import At, workspace_at
from perdure.domain.ids import OrgId
from perdure.domain.patterns import LineMatch, Pattern, compile_glob, compile_regex, matching_lines
from perdure.store.blobs import read_contents
from perdure.store.database import Tx
from perdure.store.files import FileRow, list_tree, need_entry

SECONDS = 10.0
"""How long a search may take."""
BATCH = 4 * 1024 * 1024
"""Bytes of contents that are looked through at a time: what a search holds in memory, if no file is
longer."""

OUT_OF_TIME = f"the search was stopped after {SECONDS:g} seconds: narrow it down"


class Found(Struct, frozen=True):
    """A file with lines that match."""

    path: str
    lines: tuple[LineMatch, ...]


class Search(Struct, frozen=True):
    """What a search came to.

    Attributes:
        cut: why there may be more; None when this is all.
        searched: how many files were looked through.
    """

    found: tuple[Found, ...]
    cut: str | None
    searched: int


async def grep(
    app: Services,
    scope: Scope,
    at: At,
    regex: str,
    *,
    glob: str | None = None,
    folder: str = "/",
    ignore_case: bool = False,
    limit: int,
    clean: Callable[[str], str] = str,
) -> Search:
    """The lines of text files that match a regular expression, by path; at most `limit`.

    Args:
        clean: what is done to a long line before its ends are left out.

    Raises:
        InvalidInput: a pattern cannot be read.
        NotFound: there is no such folder or file.
    """
    end = time.monotonic() + SECONDS
    pattern = await asyncio.to_thread(compile_regex, regex, ignore_case=ignore_case)
    rows, cut = await _chosen(app, scope, at, folder, glob, end)
    rows = [row for row in rows if row.is_text and row.size_bytes]
    found: list[Found] = []
    searched = 0
    for batch in _batches(rows):
        if cut or limit <= 0:
            break
        contents = await app.database.read(_reading(scope.organization_id, batch), long=True)
        more, cut = await asyncio.to_thread(_search, pattern, batch, contents, limit, end, clean)
        found += more
        limit -= sum(len(each.lines) for each in more)
        searched += len(batch)
    if limit <= 0 and not cut:
        cut = "there are more matches: narrow the search down"
    return Search(tuple(found), cut, searched)


async def find(
    app: Services, scope: Scope, at: At, glob: str, folder: str = "/"
) -> tuple[list[FileRow], str | None]:
    """The files whose paths fit a glob, by path, and why there may be more. Raises what `grep` does."""
    return await _chosen(app, scope, at, folder, glob, time.monotonic() + SECONDS)


async def _chosen(
    app: Services, scope: Scope, at: At, folder: str, glob: str | None, end: float
) -> tuple[list[FileRow], str | None]:
    """The files of a folder (or the one file that it is) whose paths fit."""
    fits = None if glob is None else await asyncio.to_thread(compile_glob, glob)

    async def body(tx: Tx) -> tuple[FileRow, list[FileRow]]:
        org_id, space = scope.organization_id, await workspace_at(tx, scope, at)
        top = await need_entry(tx, org_id, space, folder)
        return top, await list_tree(tx, org_id, space, folder) if top.is_directory else [top]

    top, rows = await app.database.read(body, long=True)
    rows = [row for row in rows if not row.is_directory]
    if glob is None or fits is None:
        return rows, None
    # What is no absolute path is meant from the folder on.
    base = folder if top.is_directory and folder != "/" and not glob.startswith("/") else ""
    return await asyncio.to_thread(_fitting, rows, fits, base, end)


def _fitting(
    rows: Sequence[FileRow], fits: Callable[[str], bool], base: str, end: float
) -> tuple[list[FileRow], str | None]:
    chosen: list[FileRow] = []
    for row in rows:
        if time.monotonic() > end:
            return chosen, OUT_OF_TIME
        if fits(row.path.removeprefix(base)):
            chosen.append(row)
    return chosen, None


def _batches(rows: Sequence[FileRow]) -> Iterator[list[FileRow]]:
    batch: list[FileRow] = []
    size = 0
    for row in rows:
        if batch and size + row.size_bytes > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row.size_bytes
    if batch:
        yield batch


def _reading(org_id: OrgId, batch: list[FileRow]) -> Callable[[Tx], Awaitable[dict[str, bytes]]]:
    sizes = {row.hash: row.size_bytes for row in batch}
    return lambda tx: read_contents(tx, org_id, sizes)


def _search(
    pattern: Pattern,
    batch: list[FileRow],
    contents: dict[str, bytes],
    limit: int,
    end: float,
    clean: Callable[[str], str],
) -> tuple[list[Found], str | None]:
    found: list[Found] = []
    for row in batch:
        lines: list[LineMatch] = []
        try:
            for line in matching_lines(
                pattern, contents[row.hash], limit, lambda: time.monotonic() > end, clean
            ):
                lines.append(line)  # noqa: PERF402 (what was found before the time was up counts)
        except TimeoutError:
            return [*found, *([Found(row.path, tuple(lines))] if lines else [])], OUT_OF_TIME
        if lines:
            found.append(Found(row.path, tuple(lines)))
            limit -= len(lines)
    return found, None
