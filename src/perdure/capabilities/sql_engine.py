"""Running a model's SQL on an SQLite image in memory: no files, no extensions, no other database; bounded in time, size and rows.

The image comes from the session's row and goes back as a whole, so any worker can open it. Runs in the sandbox's processes: what
one statement can take of memory, and how long one function can take, is known to nobody.
"""

from __future__ import annotations

import math
import sqlite3
import time
from typing import Any

from msgspec import Struct

from perdure.domain.databases import MAX_DATABASE
from perdure.domain.errors import ToolError

TIME_LIMIT = 5.0
"""Seconds that one statement may run."""

MAX_ROWS = 1_000
"""Rows of a query's answer (wire contract)."""

MAX_CELL = 1_000_000
"""Bytes of one value, and of one statement."""

MAX_ANSWER = 4_000_000
"""Characters of all values of an answer together: far more than a model is shown of it."""

MAX_COLUMNS = 500
"""Of a table and of an answer: all values of a row are in memory at once."""

MAX_DEFINITION = 20_000
"""Characters that are shown of the statement that made a table."""

PAGE_SIZE = 4096
STEPS = 1_000
"""Virtual-machine steps between two looks at the clock: well under a millisecond."""

_SAFE_PRAGMAS = frozenset(
    {
        "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list", "foreign_keys",
        "integrity_check", "quick_check", "user_version", "data_version", "page_size", "encoding",
    }
)  # fmt: skip
_BANNED_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "sqlite_log"})
_SAFE_MODULES = frozenset({"fts5", "fts4", "fts3", "rtree", "json_each", "json_tree"})


class SqlJob(Struct, frozen=True, tag="sql"):
    """A statement to run on an image. `parameters` are JSON; `reading` refuses whatever would change the database."""

    image: bytes
    sql: str
    parameters: bytes
    reading: bool


class SchemaJob(Struct, frozen=True, tag="schema"):
    """An image to describe."""

    image: bytes


class Answer(Struct, frozen=True):
    """What a statement gave. `image` is the database afterwards, None if nothing changed."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    truncated: bool = False
    affected: int = 0
    last_row_id: int | None = None
    image: bytes | None = None
    pages: int = 0


def run_sql(image: bytes, sql: str, parameters: Any, *, reading: bool) -> Answer:
    """Run one statement.

    Args:
        reading: refuse whatever would change the database.

    Raises:
        ToolError: the SQL is wrong, is not allowed, or runs out of its bounds.
    """
    connection = _open(image)
    try:
        before = connection.total_changes
        schema = _schema_version(connection)
        _guard(connection, reading=reading)
        answer = _execute(connection, sql, parameters)
        connection.set_authorizer(None)
        connection.set_progress_handler(None, 0)
        if reading or (connection.total_changes == before and _schema_version(connection) == schema):
            return answer
        connection.commit()
        return _with_image(connection, answer)
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            raise ToolError(f"the statement ran over {TIME_LIMIT:g} seconds") from None
        if "disk I/O" in str(error):  # there is no disk but for what is sorted
            raise ToolError("SQL error: the statement needs more room than it may have") from None
        if "readonly" in str(error):
            raise ToolError("SQL error: not allowed here: a query changes nothing") from None
        raise ToolError(f"SQL error: {error}") from None
    except sqlite3.DatabaseError as error:
        reason = "not allowed here" if "not authorized" in str(error) or "prohibited" in str(error) else str(error)
        raise ToolError(f"SQL error: {reason}") from None
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, TypeError) as error:
        raise ToolError(f"SQL error: {error}") from None
    finally:
        connection.close()


def _open(image: bytes) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    if image:
        connection.deserialize(image)
    connection.execute(f"PRAGMA max_page_count={MAX_DATABASE // PAGE_SIZE}")
    connection.execute("PRAGMA temp_store=FILE")
    connection.execute("PRAGMA cache_size=-4096")
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, MAX_CELL)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200)
    connection.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, MAX_COLUMNS)
    return connection


def _guard(connection: sqlite3.Connection, *, reading: bool) -> None:
    until = time.monotonic() + TIME_LIMIT
    connection.set_progress_handler(lambda: 1 if time.monotonic() > until else 0, STEPS)

    def allow(action: int, first: str | None, second: str | None, database: str | None, trigger: str | None) -> int:
        if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH):
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_PRAGMA and not _pragma_allowed((first or "").lower(), second, reading=reading):
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _BANNED_FUNCTIONS:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_CREATE_VTABLE and (second or "").lower() not in _SAFE_MODULES:
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    if reading:
        connection.execute("PRAGMA query_only=ON")
    connection.set_authorizer(allow)


def _pragma_allowed(name: str, value: str | None, *, reading: bool) -> bool:
    return name in _SAFE_PRAGMAS and not (reading and name == "user_version" and value is not None)


def _execute(connection: sqlite3.Connection, sql: str, parameters: Any) -> Answer:
    before = connection.total_changes
    cursor = connection.execute(sql, parameters if parameters is not None else ())
    if cursor.description is None:
        return Answer(affected=connection.total_changes - before, last_row_id=cursor.lastrowid or None)
    names = tuple(column[0] for column in cursor.description)
    rows: list[tuple[Any, ...]] = []
    room, truncated = MAX_ANSWER, False
    for row in cursor:
        room -= sum(len(value) if isinstance(value, str) else 8 for value in row)
        truncated = len(rows) >= MAX_ROWS or room < 0
        if truncated:
            break
        rows.append(tuple(_cell(value) for value in row))
    return Answer(names, tuple(rows), truncated, connection.total_changes - before)


def _cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _schema_version(connection: sqlite3.Connection) -> tuple[int, int]:
    return connection.execute("PRAGMA schema_version").fetchone()[0], connection.execute("PRAGMA user_version").fetchone()[0]


def _with_image(connection: sqlite3.Connection, answer: Answer) -> Answer:
    image = connection.serialize()
    if len(image) > MAX_DATABASE:
        raise ToolError(f"a database may hold {MAX_DATABASE} bytes")
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    return Answer(answer.columns, answer.rows, answer.truncated, answer.affected, answer.last_row_id, image, pages)


def describe(image: bytes) -> tuple[dict[str, Any], ...]:
    """The tables and views with their columns. Raises ToolError."""
    connection = _open(image)
    try:
        found = connection.execute(
            "SELECT name, type, SUBSTR(sql, 1, ?) FROM sqlite_schema"
            " WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' ORDER BY name LIMIT 500",
            (MAX_DEFINITION,),
        ).fetchall()
        return tuple({"name": name, "type": kind, "sql": sql, **_columns(connection, name)} for name, kind, sql in found)
    except sqlite3.Error as error:
        raise ToolError(f"the database cannot be read: {error}") from None
    finally:
        connection.close()


def _columns(connection: sqlite3.Connection, name: str) -> dict[str, Any]:
    """The columns of a table or view, or why nobody can tell: what a view asks for may be gone."""
    try:
        found = connection.execute("SELECT * FROM pragma_table_info(?)", (name,)).fetchall()
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            raise
        return {"columns": [], "error": str(error)}
    columns = [{"name": each[1], "type": each[2], "not_null": bool(each[3]), "primary_key": bool(each[5])} for each in found]
    return {"columns": columns}
