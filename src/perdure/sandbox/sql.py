"""Runs a model's SQL on an SQLite image in memory: no files, no extensions, no other database.

Time, size and rows are limited.

The image is read from and written to the database as a whole, so any worker can open it. This code runs in
the sandbox's processes, because the memory of a statement and the time of a single function have no reliable
bound.
"""

from __future__ import annotations

import math
import sqlite3
import time
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.databases import MAX_DATABASE
from perdure.domain.errors import ToolError
from perdure.sandbox.frames import LONG

TIME_LIMIT = 5.0
"""Seconds that one statement may run."""

MAX_ROWS = 1_000
"""Rows in a query's answer (wire contract)."""

MAX_CELL = 1_000_000
"""Bytes of one value, and of one statement."""

MAX_ANSWER = 4_000_000
"""Characters of all values in an answer together: far more than a model is shown."""

MAX_COLUMNS = 500
"""Columns of a table and of an answer: all values of a row are in memory at once."""

MAX_DEFINITION = 20_000
"""Characters shown of the statement that created a table."""

PAGE_SIZE = 4096
STEPS = 1_000
"""Steps of SQLite's virtual machine between two checks of the clock: well under a millisecond."""

_SAFE_PRAGMAS = frozenset(
    {
        "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo",
        "foreign_key_list", "foreign_keys", "foreign_key_check", "integrity_check", "quick_check",
        "user_version", "data_version", "page_size", "encoding",
    }
)  # fmt: skip
_TRANSACTIONS = frozenset({sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT})
_TEMPORARY = frozenset(
    {
        sqlite3.SQLITE_CREATE_TEMP_TABLE, sqlite3.SQLITE_CREATE_TEMP_INDEX,
        sqlite3.SQLITE_CREATE_TEMP_TRIGGER, sqlite3.SQLITE_CREATE_TEMP_VIEW,
    }
)  # fmt: skip
_UNENFORCED = 0x50464B00
"""The application id that marks a database whose foreign keys are not enforced. The pragma alone would be
lost with the connection."""
_BANNED_FUNCTIONS = frozenset(
    {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "sqlite_log"}
)
_SAFE_MODULES = frozenset({"fts5", "fts4", "fts3", "rtree", "json_each", "json_tree"})


class SqlJob(Struct, frozen=True, tag="sql"):
    """A statement to run on an image.

    `parameters` are JSON; `reading` refuses any change to the database.
    """

    image: bytes
    sql: str
    parameters: bytes
    reading: bool


class SchemaJob(Struct, frozen=True, tag="schema"):
    """An image whose tables and views are to be described."""

    image: bytes


class Answer(Struct, frozen=True):
    """A statement's result. `image` is the database afterwards; None if nothing changed."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    truncated: bool = False
    affected: int = 0
    last_row_id: int | None = None
    image: bytes | None = None
    pages: int = 0

    def apart(self) -> tuple[Answer, dict[str, bytes]]:
        """Return it without the database if that is long, and that."""
        if self.image is None or len(self.image) < LONG:
            return self, {}
        return replace(self, image=None), {"image": self.image}

    def whole(self, contents: dict[str, bytes]) -> Answer:
        """Return it with the database."""
        return replace(self, image=contents["image"])


def run_sql(image: bytes, sql: str, parameters: Any, *, reading: bool) -> Answer:
    """Run one statement.

    Args:
        image: the database; empty for a new one.
        parameters: the values of the placeholders: a list, or None.
        reading: refuse any change to the database.

    Raises:
        ToolError: the SQL is invalid, not allowed, or over a limit.
    """
    connection = _open(image)
    refusals: list[str] = []
    try:
        before = connection.total_changes
        schema = _schema_version(connection)
        _guard(connection, refusals, reading=reading)
        answer = _execute(connection, sql, parameters)
        connection.set_authorizer(None)
        connection.set_progress_handler(None, 0)
        if reading:
            return answer
        _remember_enforcement(connection)
        if connection.total_changes == before and _schema_version(connection) == schema:
            return answer
        connection.commit()
        return _with_image(connection, _counted(connection, answer, before))
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            raise ToolError(f"the statement took longer than {TIME_LIMIT:g} seconds") from None
        if "disk I/O" in str(error):  # the disk is used for sorting only
            raise ToolError("SQL error: the statement needs more temporary space than is allowed") from None
        if "is full" in str(error):
            raise ToolError(
                f"SQL error: a database may hold at most {MAX_DATABASE} bytes: delete or drop something first"
            ) from None
        if "readonly" in str(error):
            raise ToolError("SQL error: not allowed here: a query cannot change the database") from None
        raise ToolError(f"SQL error: {error}") from None
    except sqlite3.DatabaseError as error:
        denied = any(
            phrase in str(error) for phrase in ("not authorized", "prohibited", "authorization denied")
        )
        reason = (refusals[0] if refusals else "not allowed here") if denied else str(error)
        raise ToolError(f"SQL error: {reason}") from None
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, TypeError) as error:
        raise ToolError(f"SQL error: {error}") from None
    finally:
        connection.close()


def _open(image: bytes) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    # SQLite holds any bytes as text. One value that is not UTF-8 must not fail the whole statement.
    connection.text_factory = _text
    if image:
        connection.deserialize(image)
    else:
        # Each statement reads and writes the whole image, so deleted pages should not stay in it.
        connection.execute("PRAGMA auto_vacuum=FULL")
    connection.execute(f"PRAGMA max_page_count={MAX_DATABASE // PAGE_SIZE}")
    connection.execute("PRAGMA temp_store=FILE")
    connection.execute("PRAGMA cache_size=-4096")
    connection.execute("PRAGMA trusted_schema=OFF")
    if connection.execute("PRAGMA application_id").fetchone()[0] != _UNENFORCED:
        connection.execute("PRAGMA foreign_keys=ON")  # SQLite's default, off, surprises models
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, MAX_CELL)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200)
    connection.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, MAX_COLUMNS)
    return connection


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _guard(connection: sqlite3.Connection, refusals: list[str], *, reading: bool) -> None:
    """Refuse statements that are not allowed; the reasons that a model can act on go to `refusals`."""
    until = time.monotonic() + TIME_LIMIT
    connection.set_progress_handler(lambda: 1 if time.monotonic() > until else 0, STEPS)

    def allow(
        action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
    ) -> int:
        if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH):
            return sqlite3.SQLITE_DENY
        if action in _TRANSACTIONS:
            refusals.append(
                "transactions across statements are not supported: each statement is its own transaction, "
                "and one that fails changes nothing"
            )
            return sqlite3.SQLITE_DENY
        if action in _TEMPORARY:
            refusals.append(
                "temporary objects would be lost after this statement: create them without TEMP, and drop "
                "them afterwards"
            )
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_PRAGMA and not _pragma_allowed(
            (first or "").lower(), second, reading=reading
        ):
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
    return name in _SAFE_PRAGMAS and not (
        reading and name in ("user_version", "foreign_keys") and value is not None
    )


def _execute(connection: sqlite3.Connection, sql: str, parameters: Any) -> Answer:
    cursor = connection.execute(sql, parameters if parameters is not None else ())
    if cursor.description is None:
        return Answer()
    names = tuple(column[0] for column in cursor.description)
    rows: list[tuple[Any, ...]] = []
    room, truncated = MAX_ANSWER, False
    for row in cursor:
        room -= sum(len(value) if isinstance(value, str) else 8 for value in row)
        truncated = len(rows) >= MAX_ROWS or room < 0
        if truncated:
            break
        rows.append(tuple(_cell(value) for value in row))
    cursor.close()  # completes a statement that both changes and returns rows
    return Answer(names, tuple(rows), truncated)


def _counted(connection: sqlite3.Connection, answer: Answer, before: int) -> Answer:
    """Add the number of rows that the statement itself changed.

    Rows changed by triggers, or in the shadow tables of a virtual table, do not count.
    """
    if connection.total_changes == before:
        return answer
    affected, last_row_id = connection.execute("SELECT changes(), last_insert_rowid()").fetchone()
    return replace(answer, affected=affected, last_row_id=last_row_id or None)


def _remember_enforcement(connection: sqlite3.Connection) -> None:
    enforced = connection.execute("PRAGMA foreign_keys").fetchone()[0]
    mark = 0 if enforced else _UNENFORCED
    if connection.execute("PRAGMA application_id").fetchone()[0] != mark:
        connection.execute(f"PRAGMA application_id={mark}")


def _cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _schema_version(connection: sqlite3.Connection) -> tuple[int, ...]:
    """The header values that show a change of the database in which no row changes."""
    names = ("schema_version", "user_version", "application_id")
    return tuple(connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)


def _with_image(connection: sqlite3.Connection, answer: Answer) -> Answer:
    image = connection.serialize()
    if len(image) > MAX_DATABASE:
        raise ToolError(f"a database may hold at most {MAX_DATABASE} bytes: delete or drop something first")
    return replace(answer, image=image, pages=connection.execute("PRAGMA page_count").fetchone()[0])


def describe(image: bytes) -> tuple[dict[str, Any], ...]:
    """List the tables and views with their columns. Raises ToolError."""
    connection = _open(image)
    try:
        entries = connection.execute(
            "SELECT name, type, SUBSTR(sql, 1, ?) FROM sqlite_schema"
            " WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' ORDER BY name LIMIT 500",
            (MAX_DEFINITION,),
        ).fetchall()
        return tuple(
            {"name": name, "type": kind, "sql": sql, **_columns(connection, name)}
            for name, kind, sql in entries
        )
    except sqlite3.Error as error:
        raise ToolError(f"the database cannot be read: {error}") from None
    finally:
        connection.close()


def _columns(connection: sqlite3.Connection, name: str) -> dict[str, Any]:
    """The columns of a table or view, or an error: a view's tables may have been dropped."""
    try:
        columns = connection.execute("SELECT * FROM pragma_table_info(?)", (name,)).fetchall()
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            raise
        return {"columns": [], "error": str(error)}
    return {
        "columns": [
            {"name": each[1], "type": each[2], "not_null": bool(each[3]), "primary_key": bool(each[5])}
            for each in columns
        ]
    }
