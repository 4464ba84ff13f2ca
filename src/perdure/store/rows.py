"""Rows as frozen structs.

Each table's columns are spelled out once, here, in the order in which they are selected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from perdure.domain.ids import OrgId
from perdure.store.database import Param, Value


def columns(row: type[Struct], *, alias: str = "") -> str:
    """The row's columns for a SELECT, in field order."""
    dot = f"{alias}." if alias else ""
    return ", ".join(f"{dot}{name}" for name in row.__struct_fields__)


def marks(row: type[Struct]) -> str:
    """As many `?` as the row has columns."""
    return ", ".join("?" * len(row.__struct_fields__))


def insert(table: str, row: type[Struct]) -> str:
    """An INSERT of one such row."""
    return f"INSERT INTO {table} ({columns(row)}) VALUES ({marks(row)})"


def values(row: Struct) -> tuple[Value, ...]:
    """The row's values, in field order."""
    return msgspec.structs.astuple(row)


def assignments(names: Iterable[str]) -> str:
    """`a = ?, b = ?` for an UPDATE."""
    return ", ".join(f"{name} = ?" for name in names)


def to_json(value: object) -> str:
    """A value as JSON text."""
    return msgspec.json.encode(value).decode()


def like_pattern(text: str) -> str:
    """A LIKE pattern for "contains this text", to be used as `LOWER(column) LIKE LOWER(?) ESCAPE '!'`.

    The database lowers both sides, so that whatever it takes for the lower case of a letter, a text contains
    itself.
    """
    escaped = text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return f"%{escaped}%"


def named(org_id: OrgId, search: str | None, archived: bool) -> tuple[str, list[Value]]:
    """The WHERE, with its arguments, of an organization's agents or harnesses.

    `search` narrows it to those whose names or descriptions hold a text.
    """
    parts = ["org_id = ?"]
    args: list[Value] = [org_id]
    parts.append("status <> 'deleted'" if archived else "status = 'active'")
    if search is not None:
        looked_at = ("name", "display_name", "description")
        parts.append(
            "("
            + " OR ".join(f"LOWER(COALESCE({name}, '')) LIKE LOWER(?) ESCAPE '!'" for name in looked_at)
            + ")"
        )
        args += [like_pattern(search)] * len(looked_at)
    return " AND ".join(parts), args


_AMONG = {
    "sqlite": "{column} IN (SELECT value FROM json_each(?))",
    "postgres": "{column} = ANY(CAST(? AS {kind}[]))",
}


def among(
    dialect: str, column: str, kind: Literal["BIGINT", "TEXT"], wanted: Sequence[int] | Sequence[str]
) -> tuple[str, Param]:
    """The condition that a column has one of many values, and its one argument.

    The same statement however many there are.
    """
    condition = _AMONG[dialect].format(column=column, kind=kind)
    return condition, to_json(wanted) if dialect == "sqlite" else list[Value](wanted)


_JSON_NUMBER = {
    "sqlite": "CAST(json_extract({column}, '$.{name}') AS {kind})",
    "postgres": "CAST(CAST({column} AS json) ->> '{name}' AS {kind})",
}


def json_number(dialect: str, column: str, name: str, kind: Literal["BIGINT", "DOUBLE PRECISION"]) -> str:
    """A number out of a column that holds a JSON object, NULL where it has none of that name."""
    return _JSON_NUMBER[dialect].format(column=column, name=name, kind=kind)
