"""SQL databases of a session."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.messages import JsonObject
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
    tables: tuple[JsonObject, ...]


_NAME = re.compile(NAME_PATTERN)


def check_database_name(name: str) -> None:
    """Accept only a `DatabaseName`. Raises InvalidInput."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "a database's name has up to 63 lower-case letters, digits and underscores, a letter first",
            field="name",
        )
