"""Searches a workspace's files by content and by path, with limits on time and on results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from msgspec import Struct

from perdure.app.context import Scope, Services
from perdure.app.file_access import Readable
from perdure.app.file_views import entry_at, prepare, tree_at, view_at
from perdure.domain.ids import OrgId
from perdure.domain.patterns import LineMatch, Pattern, compile_glob, compile_regex, matching_lines
from perdure.store.blobs import read_contents
from perdure.store.database import Tx
from perdure.store.files import FileRow

SECONDS = 10.0
"""The time limit of a search."""
BATCH = 4 * 1024 * 1024
"""Bytes of content that a search loads at a time, unless a single file is larger."""

OUT_OF_TIME = f"the search was stopped after {SECONDS:g} seconds: narrow the search"


class FileMatches(Struct, frozen=True):
    """A file and its matching lines."""

    path: str
    lines: tuple[LineMatch, ...]


class Search(Struct, frozen=True):
    """The result of a search.

    Attributes:
        truncated: why there may be more matches; None when these are all.
        searched: how many files were searched.
    """

    files: tuple[FileMatches, ...]
    truncated: str | None
    searched: int


async def grep(
    app: Services,
    scope: Scope,
    at: Readable,
    regex: str,
    *,
    glob: str | None = None,
    folder: str = "/",
    ignore_case: bool = False,
    limit: int,
    clean: Callable[[str], str] = str,
) -> Search:
    """Find the lines of text files that match a regular expression, sorted by path.

    Args:
        glob: limits the search to matching paths.
        folder: limits the search to a folder or a file.
        limit: lines to return at most.
        clean: redacts a long line before it is truncated.

    Raises:
        InvalidInput: a pattern is not valid.
        NotFound: the folder or file does not exist.
        RateLimited: the organization runs too many searches.
    """
    async with app.shares.turn(scope.organization_id):
        return await _grep(app, scope, at, regex, glob, folder, ignore_case, limit, clean)


async def _grep(
    app: Services,
    scope: Scope,
    at: Readable,
    regex: str,
    glob: str | None,
    folder: str,
    ignore_case: bool,
    limit: int,
    clean: Callable[[str], str],
) -> Search:
    end = time.monotonic() + SECONDS
    pattern = await asyncio.to_thread(compile_regex, regex, ignore_case=ignore_case)
    rows, truncated = await _select_files(app, scope, at, folder, glob, end)
    texts = [row for row in rows if row.is_text and row.size_bytes]
    rows = [row for row in texts if row.size_bytes <= app.file_limits.file]
    files: list[FileMatches] = []
    searched = 0
    for batch in _batches(rows):
        if truncated or limit <= 0:
            break
        contents = await app.database.read(_contents_reader(scope.organization_id, batch), long=True)
        matches, truncated = await asyncio.to_thread(_search, pattern, batch, contents, limit, end, clean)
        files += matches
        limit -= sum(len(file.lines) for file in matches)
        searched += len(batch)
    if limit <= 0 and not truncated:
        truncated = "there are more matches: narrow the search"
    if len(rows) < len(texts) and not truncated:
        truncated = f"{len(texts) - len(rows)} files over {app.file_limits.file} bytes were not searched"
    return Search(tuple(files), truncated, searched)


async def find(
    app: Services, scope: Scope, at: Readable, glob: str, folder: str = "/"
) -> tuple[list[FileRow], str | None]:
    """Find the files whose paths match a glob, sorted by path; also returns why there may be more.

    Raises the errors of `grep`.
    """
    async with app.shares.turn(scope.organization_id):
        return await _select_files(app, scope, at, folder, glob, time.monotonic() + SECONDS)


async def _select_files(
    app: Services, scope: Scope, at: Readable, folder: str, glob: str | None, end: float
) -> tuple[list[FileRow], str | None]:
    """The files at or below a path that match the glob."""
    matches = None if glob is None else await asyncio.to_thread(compile_glob, glob)

    await prepare(app, scope, at, folder)

    async def body(tx: Tx) -> tuple[FileRow, list[FileRow]]:
        view = await view_at(tx, scope, at, folder)
        top = await entry_at(tx, view, folder)
        return top, await tree_at(tx, view, folder) if top.is_directory else [top]

    top, rows = await app.database.read(body, long=True)
    rows = [row for row in rows if not row.is_directory]
    if glob is None or matches is None:
        return rows, None
    # A glob that does not begin with / is relative to the folder.
    base = folder if top.is_directory and folder != "/" and not glob.startswith("/") else ""
    return await asyncio.to_thread(_filter, rows, matches, base, end)


def _filter(
    rows: Sequence[FileRow], matches: Callable[[str], bool], base: str, end: float
) -> tuple[list[FileRow], str | None]:
    selected: list[FileRow] = []
    for row in rows:
        if time.monotonic() > end:
            return selected, OUT_OF_TIME
        if matches(row.path.removeprefix(base)):
            selected.append(row)
    return selected, None


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


def _contents_reader(org_id: OrgId, batch: list[FileRow]) -> Callable[[Tx], Awaitable[dict[str, bytes]]]:
    sizes = {row.hash: row.size_bytes for row in batch}
    return lambda tx: read_contents(tx, org_id, sizes)


def _search(
    pattern: Pattern,
    batch: list[FileRow],
    contents: dict[str, bytes],
    limit: int,
    end: float,
    clean: Callable[[str], str],
) -> tuple[list[FileMatches], str | None]:
    files: list[FileMatches] = []
    for row in batch:
        lines: list[LineMatch] = []
        try:
            for line in matching_lines(
                pattern, contents[row.hash], limit, lambda: time.monotonic() > end, clean
            ):
                lines.append(line)  # noqa: PERF402 (keeps the lines found before a timeout)
        except TimeoutError:
            return [*files, *([FileMatches(row.path, tuple(lines))] if lines else [])], OUT_OF_TIME
        if lines:
            files.append(FileMatches(row.path, tuple(lines)))
            limit -= len(lines)
    return files, None
