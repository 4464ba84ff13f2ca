"""Rows as frozen structs: each table's columns are spelled out once, here, in the order in which they are selected."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

S = TypeVar("S", bound=Struct)


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


def values(row: Struct) -> tuple[Any, ...]:
    """The row's values, in field order."""
    return msgspec.structs.astuple(row)


def assignments(names: Any) -> str:
    """`a = ?, b = ?` for an UPDATE."""
    return ", ".join(f"{name} = ?" for name in names)


def to_json(value: Any) -> str:
    """A value as JSON text."""
    return msgspec.json.encode(value).decode()


def like_pattern(text: str) -> str:
    """A LIKE pattern for "contains this text", to be used with `ESCAPE '!'` and a lower-cased column."""
    escaped = text.lower().replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return f"%{escaped}%"
