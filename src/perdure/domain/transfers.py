"""Exports: the format in which sessions and organizations move between databases.

An export is a gzip stream of JSON lines. The first is its `Header`, the last its `Footer`. Between them:

    {"t": "events", "c": ["session_id", ...]}    the rows that follow are of this table, with these columns
    {"r": ["session_...", ...]}                  a row; bytes are {"b": base64}, secrets {"s": base64}
    {"tree": "session_...", "sessions": [...]}   the rows that follow belong to this tree of sessions

The rows of a tree end with those of `sessions`, so that a tree is there as a whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.ids import OrgId, SessionId

FORMAT = "perdure-export"
VERSION = 1
"""The version of the format that this release writes. A reader refuses newer ones."""

OnConflict = Literal["skip", "copy"]


class Header(Struct, frozen=True, omit_defaults=True):
    """The first line of an export.

    Attributes:
        format, version: of the export.
        perdure: the release that made it.
        created_at: the moment that it is of, as RFC 3339.
        migration: the number of the newest migration of its database.
        org_id: the organization.
        session_id: the session at the top of the tree; None for the whole organization.
        secrets: whether secrets are in it, sealed under the key that was given.
    """

    format: str
    version: int
    perdure: str
    created_at: str
    migration: int
    org_id: OrgId
    session_id: SessionId | None = None
    secrets: bool = False


class Footer(Struct, frozen=True):
    """The last line of an export: the number of rows, and the SHA-256 of all lines before it."""

    rows: int
    sha256: str


class Imported(Struct, frozen=True):
    """What an import has done.

    Attributes:
        org_id: the organization that the sessions are in now.
        sessions: how many were added.
        present: how many were there already, and were left alone.
        copied: how many were added under new ids.
        rows: how many rows there were in all that was added, of every kind.
    """

    org_id: OrgId
    sessions: int
    present: int
    copied: int
    rows: int


class _Versions(Struct):
    format: str = ""
    version: int = 0


def bad_export(reason: str) -> InvalidInput:
    """Return the error of a file that is no usable export."""
    return InvalidInput(reason, code="invalid_export")


def read_header(line: bytes, newest_migration: int) -> Header:
    """Decode the first line of an export.

    Raises:
        InvalidInput: `invalid_export`: it is none, or a newer release made it.
    """
    try:
        versions = msgspec.json.decode(line, type=_Versions)
        if versions.format != FORMAT:
            raise bad_export("the file is not an export of Perdure")
        header = msgspec.json.decode(line, type=Header) if versions.version <= VERSION else None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise bad_export("the file is not an export of Perdure") from None
    if header is None or header.migration > newest_migration:
        raise bad_export("a newer release of Perdure made this export: import it with that release")
    return header


_ID = re.compile(r"(?<![0-9A-Za-z])[a-z]+_[0-9a-f]{32}(?![0-9A-Za-z])")


def with_ids(text: str, ids: Mapping[str, str]) -> str:
    """Replace ids in a text, wherever they are in it."""
    return _ID.sub(lambda match: ids.get(match[0], match[0]), text) if ids else text
