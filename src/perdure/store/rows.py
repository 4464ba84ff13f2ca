"""Helpers for rows as frozen structs, and SQL fragments for both dialects.

A row's struct lists the columns of its table once, in the order in which they are selected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from perdure.domain.errors import Damaged
from perdure.domain.ids import OrgId
from perdure.store.database import Param, Value

T = TypeVar("T")


def columns(row: type[Struct], *, alias: str = "") -> str:
    """Return the row's columns for a SELECT, in field order."""
    dot = f"{alias}." if alias else ""
    return ", ".join(f"{dot}{name}" for name in row.__struct_fields__)


def marks(row: type[Struct]) -> str:
    """Return a `?` for each column of the row."""
    return ", ".join("?" * len(row.__struct_fields__))


def insert(table: str, row: type[Struct]) -> str:
    """Return the INSERT of one such row."""
    return f"INSERT INTO {table} ({columns(row)}) VALUES ({marks(row)})"


def values(row: Struct) -> tuple[Value, ...]:
    """Return the row's values, in field order."""
    return msgspec.structs.astuple(row)


def assignments(names: Iterable[str]) -> str:
    """Return `a = ?, b = ?` for an UPDATE."""
    return ", ".join(f"{name} = ?" for name in names)


def to_json(value: object) -> str:
    """Encode a value as JSON text."""
    return msgspec.json.encode(value).decode()


def from_json(decoder: msgspec.json.Decoder[T], text: str, what: str) -> T:
    """Decode a column of JSON. Raises Damaged with the name of the resource, `what`."""
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Damaged(what) from error


def like_pattern(text: str) -> str:
    """Return a LIKE pattern for "contains this text", for `LOWER(column) LIKE LOWER(?) ESCAPE '!'`.

    The database converts both sides to lower case, so its rules for letters cannot make a text miss itself.
    """
    escaped = text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return f"%{escaped}%"


def named(org_id: OrgId, search: str | None, archived: bool) -> tuple[str, list[Value]]:
    """Return the WHERE of an organization's agents or harnesses, and its arguments.

    Args:
        search: a text that the name, the display name or the description contains.
        archived: whether to include archived ones.
    """
    parts = ["org_id = ?"]
    args: list[Value] = [org_id]
    parts.append("status <> 'deleted'" if archived else "status = 'active'")
    if search is not None:
        parts.append(contains(args, search, "name", "display_name", "description"))
    return " AND ".join(parts), args


def contains(args: list[Value], search: str, *columns: str) -> str:
    """Return the condition that a text is in one of these columns; adds its arguments to `args`."""
    args += [like_pattern(search)] * len(columns)
    likes = " OR ".join(f"LOWER(COALESCE({name}, '')) LIKE LOWER(?) ESCAPE '!'" for name in columns)
    return f"({likes})"


_AMONG = {
    "sqlite": "{column} IN (SELECT value FROM json_each(?))",
    "postgres": "{column} = ANY(CAST(? AS {kind}[]))",
}


def among(
    dialect: str, column: str, kind: Literal["BIGINT", "TEXT"], choices: Sequence[int] | Sequence[str]
) -> tuple[str, Param]:
    """Return the condition that a column has one of many values, and its single argument.

    The statement's text does not depend on the number of values.
    """
    condition = _AMONG[dialect].format(column=column, kind=kind)
    return condition, to_json(choices) if dialect == "sqlite" else list[Value](choices)


_JSON_NUMBER = {
    "sqlite": "CAST(json_extract({column}, '$.{name}') AS {kind})",
    "postgres": "CAST(CAST({column} AS json) ->> '{name}' AS {kind})",
}


def json_number(dialect: str, column: str, name: str, kind: Literal["BIGINT", "DOUBLE PRECISION"]) -> str:
    """Return the expression for a number in a column of JSON objects; NULL where the name is missing."""
    return _JSON_NUMBER[dialect].format(column=column, name=name, kind=kind)


LONG_JSON = 16 * 1024
"""Characters of a column of JSON from which lists leave out what only a single resource shows."""
LIST_BYTES = 4 * 1024 * 1024
"""Bytes after which a page of a list ends, whatever its limit."""
_SHORTENED = {
    "sqlite": "json_remove({column}, {paths})",
    "postgres": "CAST(CAST({column} AS jsonb) {without} AS TEXT)",
}


def listed_columns(row: type[Struct], dialect: str, column: str, hidden: Sequence[str]) -> str:
    """Return the row's columns for a list: a long column of JSON objects loses some members.

    Args:
        hidden: the names of these members. A shorter column may still have them.
    """
    shorter = json_without(dialect, column, hidden)
    return columns(row).replace(column, f"{if_long(column, shorter)} AS {column}", 1)


def json_without(dialect: str, column: str, hidden: Sequence[str]) -> str:
    """Return the expression for a column of JSON objects without the members with these names."""
    return _SHORTENED[dialect].format(
        column=column,
        paths=", ".join(f"'$.{name}'" for name in hidden),
        without=" ".join(f"- '{name}'" for name in hidden),
    )


def if_long(column: str, instead: str) -> str:
    """Return the expression for a text column, or for something else where it is long."""
    return f"CASE WHEN LENGTH({column}) > {LONG_JSON} THEN {instead} ELSE {column} END"
