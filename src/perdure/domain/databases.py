"""A session's SQL databases: wire formats, limits and checks."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.messages import JsonObject
from perdure.domain.times import CreatedAt, UpdatedAt

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,62}$(?!\n)"
DatabaseName = Annotated[str, Meta(pattern=NAME_PATTERN, examples=["orders"])]

MAX_DATABASES = 10
MAX_DATABASE = 50 * 1024 * 1024
"""Bytes of one database."""


_DATABASE_NAME = Meta(description="The database's name.")


class CreateDatabase(Struct, frozen=True):
    """The body of `POST /v1/sessions/{session_id}/databases`."""

    name: Annotated[DatabaseName, _DATABASE_NAME]


class DatabaseInfo(Struct, frozen=True):
    """A database, as clients see it."""

    name: Annotated[str, _DATABASE_NAME, Meta(examples=["orders"])]
    size_bytes: Annotated[int, Meta(description="The size of the database in bytes.", examples=[12288])]
    page_count: Annotated[int, Meta(description="The size of the database in SQLite pages.", examples=[3])]
    created_at: CreatedAt
    updated_at: UpdatedAt


class DatabaseSchema(Struct, frozen=True):
    """A database's tables and views, with their columns."""

    database: Annotated[str, _DATABASE_NAME, Meta(examples=["orders"])]
    tables: Annotated[
        tuple[JsonObject, ...],
        Meta(
            description="The tables and views, each with its columns.",
            examples=[[{"name": "orders", "type": "table", "columns": [{"name": "id", "type": "INTEGER"}]}]],
        ),
    ]


_NAME = re.compile(NAME_PATTERN)


def check_database_name(name: str) -> None:
    """Check that the text is a valid `DatabaseName`. Raises InvalidInput."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is not a valid database name: use up to 63 lower-case letters, digits and"
            " underscores, beginning with a letter",
            field="name",
        )
