"""SQL databases of a session."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from perdure.domain.times import Timestamp

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"
DatabaseName = Annotated[str, Meta(pattern=NAME_PATTERN, examples=["orders"])]

MAX_DATABASES = 10
MAX_DATABASE = 50 * 1024 * 1024
"""Bytes that one database may hold."""


class CreateDatabase(Struct, frozen=True):
    """The body of `POST /v1/sessions/{session_id}/databases`."""

    name: DatabaseName


class DatabaseInfo(Struct, frozen=True):
    """A database, as clients see it."""

    name: str
    size_bytes: int
    page_count: int
    created_at: Timestamp
    updated_at: Timestamp


class DatabaseSchema(Struct, frozen=True):
    """What a database holds: its tables and views, with their columns."""

    database: str
    tables: tuple[dict[str, Any], ...]
