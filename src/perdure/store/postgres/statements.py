"""Statements in PostgreSQL's own form."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache

_PARAMETER = re.compile(r"'(?:[^']|'')*'|\?")
INSERT = re.compile(r"\s*INSERT\s+INTO\s+(\w+)\s*\(([^)]*)\)\s*", re.IGNORECASE)
"""An INSERT with its table and columns, without values."""
_WITHIN = (
    "SELECT * FROM (SELECT page.*, SUM({size}) OVER running AS held, COUNT(*) OVER () AS found"
    " FROM ({sql}) AS page WINDOW running AS (ROWS UNBOUNDED PRECEDING)) AS pages"
    " WHERE held <= ? OR held = {size}"
)
"""The first rows of a query within a number of bytes, with two columns more."""


@lru_cache(maxsize=2048)
def numbered(sql: str, first: int = 1) -> str:
    """Replace each `?` outside quotes with `$1`, `$2` and so on."""
    count = itertools.count(first)
    return _PARAMETER.sub(lambda match: f"${next(count)}" if match[0] == "?" else match[0], sql)


def append_statement(update: str, args: int, insert: str, types: dict[str, str]) -> str:
    """Build the single statement of an append: an update and, if it affected a row, an insert.

    Args:
        update: an UPDATE with `?` for its parameters.
        args: the number of the update's parameters; the inserted rows follow, as one array per column.
        insert: `INSERT INTO table (columns ...)`, without VALUES.
        types: the PostgreSQL type of each column.
    """
    match = INSERT.fullmatch(insert)
    if match is None:
        raise ValueError(f"not of the form INSERT INTO table (columns): {insert!r}")
    table, names = match[1], [name.strip() for name in match[2].split(",")]
    arrays = ", ".join(f"${number}::{types[name]}[]" for number, name in enumerate(names, args + 1))
    columns = ", ".join(names)
    picked = ", ".join(f"added.{name}" for name in names)
    return (
        f"WITH moved AS ({numbered(update)} RETURNING 1), inserted AS (INSERT INTO {table} ({columns})"
        f" SELECT {picked} FROM moved, unnest({arrays}) WITH ORDINALITY AS added ({columns}, place)"
        " ORDER BY added.place) SELECT 1 FROM moved"
    )


@lru_cache(maxsize=2048)
def _within(sql: str, large: tuple[str, ...]) -> str:
    # The sizes are known without reading the values. The window takes the rows in the query's order.
    size = " + ".join(f"COALESCE(octet_length({name}), 0)" for name in large)
    return _WITHIN.format(sql=sql, size=size)


def within_statement(sql: str, large: Sequence[str]) -> str:
    """Return the statement of `Tx.within`. It has one more parameter, the limit."""
    return _within(sql, tuple(large))
