"""What the errors of SQLite, PostgreSQL and the operating system mean for callers.

A disk that is full or fails, a database that is read-only, locked, damaged or gone: none of it is the
request's fault, and all of it may pass. So all of it is `Unavailable`, with a cause for health checks.
"""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Mapping

from msgspec import Struct

from perdure.domain.errors import Unavailable

CAUSES: Mapping[str, str] = {
    "busy": "the database is too busy, try again later",
    "closed": "the database is closed",
    "corrupt": "the database is damaged: stop the server, and restore a backup",
    "disk_error": "the disk of the database failed, or a quota is used up: check it, and the system's log",
    "disk_full": "the disk of the database is full, or its quota is used up: free some space",
    "locked": "another program has locked the database: stop it",
    "moved": "the database's file was moved, deleted or replaced while the server ran: restart the server",
    "no_connection": "the connection to the database was lost",
    "no_permission": "the database's user may not do this: grant it the rights of the tables' owner",
    "not_responding": "the database is not responding",
    "out_of_memory": "there is not enough memory: try again later",
    "read_only": "the database is read-only: make it writable again",
    "too_many_files": "too many files and connections are open: raise the limit (ulimit -n)",
    "unopenable": "the database's file cannot be opened: check the data folder, its owner and its mode",
}
"""All causes, with the sentence that explains each."""

LASTING = frozenset({"corrupt", "disk_error", "disk_full", "moved", "no_permission", "read_only"})
"""Causes that do not pass by themselves within seconds."""

_SQLITE = {
    sqlite3.SQLITE_PERM: "unopenable",
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_NOMEM: "out_of_memory",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_INTERRUPT: "busy",
    sqlite3.SQLITE_IOERR: "disk_error",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_FULL: "disk_full",
    sqlite3.SQLITE_CANTOPEN: "unopenable",
    sqlite3.SQLITE_PROTOCOL: "locked",
    sqlite3.SQLITE_AUTH: "unopenable",
    sqlite3.SQLITE_NOTADB: "corrupt",
}
"""By primary result code. The other codes are mistakes of ours, such as a statement with a syntax error."""

_SQLITE_EXTENDED = {sqlite3.SQLITE_READONLY_DBMOVED: "moved", sqlite3.SQLITE_IOERR_NOMEM: "out_of_memory"}

_SQLSTATES = {
    "08": "no_connection",
    "25006": "read_only",
    "25P03": "no_connection",
    "25P04": "no_connection",
    "28": "no_permission",
    "3D": "no_connection",
    "40": "busy",
    "42501": "no_permission",
    "53": "busy",
    "53100": "disk_full",
    "53200": "out_of_memory",
    "55006": "busy",
    "55P03": "busy",
    "57014": "busy",
    "57P": "no_connection",
    "58": "disk_error",
    "72": "busy",
    "XX001": "corrupt",
    "XX002": "corrupt",
}
"""By SQLSTATE or the beginning of one; the longest match counts."""

_ERRNOS = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EFBIG: "disk_full",
    errno.EIO: "disk_error",
    errno.ENODEV: "disk_error",
    errno.ESTALE: "disk_error",
    errno.EROFS: "read_only",
    errno.EMFILE: "too_many_files",
    errno.ENFILE: "too_many_files",
    errno.ENOMEM: "out_of_memory",
}


class Fault(Struct, frozen=True):
    """A failure that lasts, for health checks: a small probe may not meet it.

    Attributes:
        at: when it happened, on the monotonic clock, in seconds.
    """

    error: Unavailable
    at: float


def unavailable(cause: str, detail: str = "", *, unknown: bool = False) -> Unavailable:
    """Build the error for a cause.

    Args:
        detail: the database's own words.
        unknown: whether the transaction may have committed.
    """
    message = CAUSES[cause] + (f" ({detail})" if detail else "")
    return Unavailable(message, cause=cause, unknown=unknown)


def lasting(error: Unavailable) -> Fault | None:
    """Return the fault to remember, if this error is one that lasts."""
    return Fault(error, time.monotonic()) if error.cause in LASTING else None


def sqlite_fault(error: BaseException, *, committing: bool = False) -> Unavailable | None:
    """Return the error for a failure of SQLite, or None if the statement or the body is at fault.

    Args:
        committing: whether the COMMIT failed.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sqlite3.Error) or code is None:
        return None
    cause = _SQLITE_EXTENDED.get(code) or _SQLITE.get(code & 0xFF)
    if cause is None:
        return None
    # The commit's record is the last thing that is written. If it was written but not flushed, a server that
    # starts again may find it.
    written = code & 0xFF == sqlite3.SQLITE_IOERR and code != sqlite3.SQLITE_IOERR_WRITE
    return unavailable(cause, f"{error}, {error.sqlite_errorname}", unknown=committing and written)


def sqlstate_cause(state: str) -> str | None:
    """Return the cause that an SQLSTATE of PostgreSQL stands for; None if the statement is at fault."""
    prefixes = (state[:length] for length in range(len(state), 1, -1))
    return next((_SQLSTATES[prefix] for prefix in prefixes if prefix in _SQLSTATES), None)


def system_fault(error: BaseException) -> Unavailable | None:
    """Return the error for a failure of the operating system, or None if it is something else."""
    if isinstance(error, MemoryError):
        return unavailable("out_of_memory", unknown=True)
    cause = _ERRNOS.get(error.errno or 0) if isinstance(error, OSError) else None
    return None if cause is None else unavailable(cause, unknown=True)
