"""Backups: what a backup's file says about itself."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from perdure.domain.errors import InvalidInput

FORMAT = "perdure-backup"
VERSION = 1
"""The version of the format that this release writes. A reader refuses newer ones."""
MAX_MANIFEST = 1024 * 1024
"""Bytes of a manifest that are read at most."""

Dialect = Literal["sqlite", "postgres"]


class Content(Struct, frozen=True):
    """A file in a backup: its size in bytes, and its SHA-256 as hex digits."""

    bytes: int
    sha256: str


class Manifest(Struct, frozen=True, omit_defaults=True):
    """What a backup holds. It is the last entry of the file, so a backup without one is not complete.

    Attributes:
        format, version: of the backup's file.
        perdure: the release that made it.
        created_at: when, as RFC 3339.
        database: the kind of database, which restores it.
        migration: the number of the database's newest migration.
        contents: the other entries of the file, by name.
        rows: the number of rows of each table.
        master_key: the name of the master key that the secrets are encrypted under; None without any secret.
        with_key: whether the master key is in the backup.
        server: the version of the PostgreSQL server.
        tool: the version of `pg_dump`.
    """

    format: str
    version: int
    perdure: str
    created_at: str
    database: Dialect
    migration: int
    contents: dict[str, Content]
    rows: dict[str, int]
    master_key: str | None = None
    with_key: bool = False
    server: int | None = None
    tool: int | None = None


class _Versions(Struct):
    format: str = ""
    version: int = 0


def bad_backup(reason: str) -> InvalidInput:
    """Return the error of a file that is no usable backup."""
    return InvalidInput(reason, code="invalid_backup")


def read_manifest(text: bytes, newest_migration: int) -> Manifest:
    """Decode a manifest.

    Args:
        newest_migration: the newest migration that this release knows.

    Raises:
        InvalidInput: `invalid_backup`: it is none, or a newer release wrote it.
    """
    try:
        versions = msgspec.json.decode(text, type=_Versions)
        if versions.format != FORMAT:
            raise bad_backup("the file is not a backup of Perdure: its manifest has another format")
        if versions.version > VERSION:
            raise bad_backup(
                f"the backup has version {versions.version} of the format, and this release of Perdure reads"
                f" up to {VERSION}: use a newer release"
            )
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise bad_backup(f"the backup's manifest cannot be read: {error}") from None
    if manifest.migration > newest_migration:
        raise bad_backup(
            f"the backup is of a database at migration {manifest.migration}, and this release of Perdure"
            f" knows up to {newest_migration}: use the release that made the backup ({manifest.perdure}) or a"
            " newer one"
        )
    return manifest
