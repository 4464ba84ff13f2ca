"""Statements in PostgreSQL's own form."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache

from perdure.store.database import Part

_PARAMETER = re.compile(r"'(?:[^']|'')*'|\?")
INSERT = re.compile(r"\s*INSERT\s+INTO\s+(\w+)\s*\(([^)]*)\)\s*(ON CONFLICT .*)?", re.IGNORECASE)
"""An INSERT with its table and columns, without values, and what it does on a conflict."""
MANY = 0
"""The number of rows of an insert whose rows are arrays."""
MOST_VALUES = 8
"""The most rows of an insert that are single parameters. Arrays take half as much time again, here and in
PostgreSQL, but each number of rows is a statement of its own."""
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


def append_statement(
    update: str,
    args: int,
    inserts: Sequence[tuple[str, int]],
    types: Sequence[dict[str, str]],
    part: Part | None = None,
) -> str:
    """Build the single statement of an append: an update and, if it affected a row, inserts.

    Args:
        update: an UPDATE with `?` for its parameters.
        args: the number of the update's parameters; those of the inserted rows follow.
        inserts: each is `INSERT INTO table (columns ...)`, without VALUES, and the number of its rows, whose
            values are the parameters; with `MANY`, they are one array per column.
        types: by insert: the PostgreSQL type of each column.
        part: what else the statement changes; its arguments come last.
    """
    parts, first, found = list[str](), args + 1, "1"
    for number, ((insert, count), columns) in enumerate(zip(inserts, types, strict=True)):
        inserting, first = _insert_part(number, insert, columns, count, first)
        parts.append(inserting)
    if part is not None:
        parts.append(numbered(part.sql, first))
        if part.check is not None:  # the error of the division undoes the whole statement
            check = numbered(part.check, first + part.sql.count("?"))
            found = f"1 / CASE WHEN {check} THEN 1 ELSE 0 END"
    return f"WITH moved AS ({numbered(update)} RETURNING 1), {', '.join(parts)} SELECT {found} FROM moved"


def _insert_part(number: int, insert: str, types: dict[str, str], count: int, first: int) -> tuple[str, int]:
    """Return the part of an append that inserts rows, and the number of the parameter after its own."""
    match = INSERT.fullmatch(insert)
    if match is None:
        raise ValueError(f"not of the form INSERT INTO table (columns): {insert!r}")
    table, names = match[1], [name.strip() for name in match[2].split(",")]
    conflict = f" {match[3]}" if match[3] else ""
    columns = ", ".join(names)
    if count == MANY:
        arrays = ", ".join(f"${place}::{types[name]}[]" for place, name in enumerate(names, first))
        picked = ", ".join(f"added.{name}" for name in names)
        rows = (
            f"SELECT {picked} FROM moved, unnest({arrays}) WITH ORDINALITY AS added ({columns}, place)"
            " ORDER BY added.place"
        )
        return f"inserted_{number} AS (INSERT INTO {table} ({columns}) {rows}{conflict})", first + len(names)
    places = iter(range(first, first + count * len(names)))
    values = (f"({', '.join(f'${next(places)}::{types[name]}' for name in names)})" for _ in range(count))
    rows = f"SELECT added.* FROM moved, (VALUES {', '.join(values)}) AS added ({columns})"
    part = f"inserted_{number} AS (INSERT INTO {table} ({columns}) {rows}{conflict})"
    return part, first + count * len(names)


@lru_cache(maxsize=2048)
def _within(sql: str, large: tuple[str, ...]) -> str:
    # The sizes are known without reading the values. The window takes the rows in the query's order.
    size = " + ".join(f"COALESCE(octet_length({name}), 0)" for name in large)
    return _WITHIN.format(sql=sql, size=size)


def within_statement(sql: str, large: Sequence[str]) -> str:
    """Return the statement of `Tx.within`. It has one more parameter, the limit."""
    return _within(sql, tuple(large))
