"""Backups, restores and checks of a database, assembled from the settings. Servers may be running."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from perdure import __version__
from perdure.app.verification import Verification
from perdure.domain.backups import FORMAT, VERSION, Dialect, Manifest, bad_backup
from perdure.domain.errors import Conflict, InvalidInput, Unavailable
from perdure.domain.times import to_rfc3339
from perdure.domain.verification import Difference, Verified
from perdure.engine.context import SystemClock
from perdure.settings import Settings
from perdure.store.archives import ArchiveReader, ArchiveWriter, Progress, new_archive, open_archive
from perdure.store.data_folder import make_folder, prepare_folder
from perdure.store.master_key import FILE, NEXT, add_key_file, key_id, parse_master_key
from perdure.store.migrate import check_migrated, load_migrations
from perdure.store.sqlite_backup import (
    ENTRY,
    check_empty,
    copy_database,
    master_key_of,
    newest_migration,
    remove_database,
    restore_database,
)
from perdure.store.sqlite_reads import SqliteSnapshots
from perdure.wiring import lock_folder, master_keys

if TYPE_CHECKING:
    from perdure.store.postgres.snapshots import PostgresSnapshots

KEY_ENTRY = "master.key"
"""The master key's name in a backup."""
COPY = ".database"
"""The end of the name of a SQLite database's copy until it is in the backup."""


async def make_backup(
    settings: Settings,
    path: Path,
    progress: Progress,
    *,
    with_key: bool = False,
    programs: Path | None = None,
) -> Manifest:
    """Write a backup of the database, which servers may use, to a new file.

    Args:
        with_key: also the master key. Whoever has the file can then read every secret.
        programs: the folder of PostgreSQL's programs.

    Raises:
        Conflict: the file exists.
        InvalidInput: the master key is to be in it, but this process does not have it.
        Unavailable: the database cannot be read, or the file not be written.
    """
    make_folder(path.parent)
    with new_archive(path) as archive:
        if settings.database_url:
            manifest = await _dump_postgres(settings, archive, progress, programs)
        else:
            manifest = await asyncio.to_thread(_copy_sqlite, settings, path, archive, progress)
        if with_key and manifest.master_key is not None:
            _add_key(settings, archive, manifest.master_key)
        contents = dict(archive.contents)
        manifest = _with(manifest, contents=contents, with_key=KEY_ENTRY in contents)
        archive.finish(manifest)
    return manifest


def _copy_sqlite(settings: Settings, path: Path, archive: ArchiveWriter, progress: Progress) -> Manifest:
    copy = path.with_name(path.name + COPY)
    try:
        rows = copy_database(settings.data_folder / "perdure.db", copy, progress)
        migration, key = newest_migration(copy), master_key_of(copy)
        with copy.open("rb") as file:
            archive.add(ENTRY, file, progress, copy.stat().st_size, packed=False)
    finally:
        remove_database(copy)
    return _manifest("sqlite", migration, rows, key)


async def _dump_postgres(
    settings: Settings, archive: ArchiveWriter, progress: Progress, programs: Path | None
) -> Manifest:
    from perdure.store.postgres import dump

    async with open_reads(settings) as reads, reads.snapshot() as tx:
        about = await dump.describe(tx)
        tool = await asyncio.to_thread(dump.find_tool, "pg_dump", about.version, programs)
        snapshot, server = (
            await dump.export_snapshot(tx),
            dump.server_at(settings.database_direct_url or settings.database_url),
        )
        rows = await dump.count_rows(tx)
        await asyncio.to_thread(dump.write_dump, tool, server, snapshot, archive, progress, about.size)
    manifest = _manifest("postgres", about.migration, rows, about.master_key)
    return _with(manifest, server=about.version, tool=tool.version)


def _manifest(database: Dialect, migration: int, rows: dict[str, int], key: str | None) -> Manifest:
    now = to_rfc3339(SystemClock().now())
    return Manifest(FORMAT, VERSION, __version__, now, database, migration, {}, rows, key)


def _with(manifest: Manifest, **changes: object) -> Manifest:
    from msgspec.structs import replace

    return replace(manifest, **changes)


def _add_key(settings: Settings, archive: ArchiveWriter, name: str) -> None:
    key = next((each for each in master_keys(settings) if key_id(each) == name), None)
    if key is None:
        raise InvalidInput(
            f"the database's master key {name} is not here, so --with-key cannot add it: set"
            " PERDURE_MASTER_KEY to it, or name the data folder with its file master.key",
            code="master_key_missing",
        )
    archive.add(KEY_ENTRY, _Text(base64.b64encode(key)), _silent, 0, packed=True)


class _Text:
    """A short text as a source."""

    def __init__(self, text: bytes) -> None:
        self._left = text

    def read(self, size: int, /) -> bytes:
        """Return the text, then nothing."""
        text, self._left = self._left[:size], self._left[size:]
        return text


def _silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


async def restore_backup(
    settings: Settings,
    path: Path,
    progress: Progress,
    *,
    with_key: bool = False,
    programs: Path | None = None,
) -> Manifest:
    """Restore a backup into an empty data folder or an empty PostgreSQL database.

    Every byte is checked before anything is written. A restore that is interrupted leaves nothing that a
    server would use, and can be repeated.

    Args:
        with_key: also the master key, which has to be in the backup.
        programs: the folder of PostgreSQL's programs.

    Raises:
        Conflict: the target is not empty, or has another master key.
        InvalidInput: the file is no usable backup, or has no master key.
        Unavailable: the target cannot be written.
    """
    with open_archive(path, load_migrations()[-1][0]) as archive:
        manifest = archive.manifest
        wanted: Dialect = "postgres" if settings.database_url else "sqlite"
        if manifest.database != wanted:
            raise bad_backup(_OTHER_DATABASE[manifest.database])
        if with_key and not manifest.with_key:
            raise InvalidInput(
                "the master key is not in the backup: leave --with-key out, and put the key "
                f"{manifest.master_key or ''} into the data folder as master.key, or into PERDURE_MASTER_KEY",
                code="master_key_missing",
            )
        if wanted == "sqlite":
            await asyncio.to_thread(_restore_sqlite, settings, archive, progress, with_key)
        else:
            await _restore_postgres(settings, archive, progress, with_key, programs)
    return manifest


def _checked_key(archive: ArchiveReader, progress: Progress, with_key: bool) -> bytes | None:
    """Check every byte of a backup; return its master key, if that is wanted."""
    archive.check(progress)
    return parse_master_key(b"".join(archive.chunks(KEY_ENTRY)).decode()) if with_key else None


_OTHER_DATABASE = {
    "sqlite": (
        "the backup is of a SQLite database, and a PostgreSQL database is named: restore it into a data"
        " folder (without PERDURE_DATABASE_URL), then move it with `perdure export` and `perdure import`"
    ),
    "postgres": (
        "the backup is of a PostgreSQL database: name an empty one with PERDURE_DATABASE_URL. `perdure"
        " export` and `perdure import` then move it to SQLite"
    ),
}


def _restore_sqlite(settings: Settings, archive: ArchiveReader, progress: Progress, with_key: bool) -> None:
    folder = settings.data_folder
    check_empty(folder, keys=(FILE, NEXT))
    with lock_folder(settings):
        check_empty(folder, keys=(FILE, NEXT))  # again: a server may have started meanwhile
        key = _checked_key(archive, progress, with_key)
        if key is not None:
            _put_key(folder, key)
        try:
            restore_database(folder, archive.chunks(ENTRY), progress, archive.manifest.contents[ENTRY].bytes)
        except OSError as error:
            raise Unavailable(f"cannot write to the data folder {folder}: {error.strerror}") from error


async def _restore_postgres(
    settings: Settings, archive: ArchiveReader, progress: Progress, with_key: bool, programs: Path | None
) -> None:
    from perdure.store.postgres import dump

    manifest = archive.manifest
    async with open_reads(settings) as reads:
        async with reads.snapshot() as tx:
            version = await dump.server_version(tx)
            if manifest.server is not None and version < manifest.server:
                raise Unavailable(
                    f"the backup is of PostgreSQL {manifest.server}, and this server runs {version}: restore"
                    f" it into PostgreSQL {manifest.server} or newer"
                )
            await dump.check_empty(tx)
        least = max(version, manifest.tool or 0)
        tool = await asyncio.to_thread(dump.find_tool, "pg_restore", least, programs)
        key = await asyncio.to_thread(_checked_key, archive, progress, with_key)
        if key is not None:
            prepare_folder(settings.data_folder)
            _put_key(settings.data_folder, key)
        server = dump.server_at(settings.database_direct_url or settings.database_url)
        await asyncio.to_thread(dump.read_dump, tool, server, archive, progress)
        async with reads.snapshot() as tx:
            rows = await dump.count_rows(tx)
    if rows != manifest.rows:
        wrong = [name for name in manifest.rows if rows.get(name) != manifest.rows[name]]
        raise Unavailable(
            f"the restored tables {', '.join(wrong[:3])} do not have the rows of the backup: did a server use"
            " the database already? Otherwise drop it, and restore the backup again"
        )


async def verify_database(
    settings: Settings,
    report: Callable[[Difference], None],
    progress: Progress,
    *,
    contents: bool = False,
) -> Verified:
    """Fold every log of the database, which servers may use, and compare all that follows from it.

    Args:
        report: called with each difference.
        contents: also read the contents of all files, and compare their hashes.

    Raises:
        Unavailable: the database cannot be read, or another release has migrated it.
    """
    async with open_reads(settings) as reads:
        async with reads.snapshot() as tx:
            await check_migrated(tx)
        return await Verification(reads, report, progress).run(contents=contents)


def _put_key(folder: Path, key: bytes) -> None:
    if not add_key_file(folder, key):
        raise Conflict(
            f"{folder} has another master key already: move its master.key away, or leave --with-key out",
            code="target_not_empty",
        )


@asynccontextmanager
async def open_reads(settings: Settings) -> AsyncIterator[SqliteSnapshots | PostgresSnapshots]:
    """Open the database for reads beside its servers.

    Raises:
        Unavailable: there is none, or it cannot be read.
    """
    reads: SqliteSnapshots | PostgresSnapshots
    if settings.database_url:
        try:
            from perdure.store.postgres.snapshots import open_snapshots
        except ImportError as error:
            raise Unavailable("PostgreSQL needs more packages: pip install 'perdure[postgres]'") from error
        reads = await open_snapshots(settings.database_direct_url or settings.database_url)
    else:
        reads = SqliteSnapshots(settings.data_folder / "perdure.db")
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(reads.close)
        yield reads
