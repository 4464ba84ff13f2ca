"""Errors of connections to PostgreSQL: which ones mean that a connection is missing or lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from perdure.domain.errors import Unavailable
from perdure.store.faults import unavailable

_ENDED = ("08", "57P", "25P03", "25P04")
"""No connection; the server shuts down or starts up; the transaction was idle or open for too long."""


def is_connection_error(error: BaseException) -> bool:
    """Return whether the error means that the connection is missing or lost, not that a statement failed."""
    if isinstance(error, asyncpg.PostgresError):
        return (sqlstate_of(error) or "").startswith(_ENDED)
    # asyncpg raises an internal error for a statement that runs after the server's shutdown message but
    # before the connection is closed.
    return isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError)


def is_lost(connection: Any, error: BaseException) -> bool:
    """Return whether this error means that the connection broke, which undoes all that is uncommitted."""
    if not is_connection_error(error):
        return False
    if isinstance(error, asyncpg.PostgresError | asyncpg.InternalClientError):
        return True
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # the pool has taken it back already
        return True


def drop_silent(connection: Any, error: BaseException) -> bool:
    """Terminate the connection if its server did not answer in time; return whether it was.

    Otherwise asyncpg, before it uses or releases the connection, asks the silent server to cancel the
    statement, and waits as long again for that.
    """
    if type(error) is not TimeoutError:
        return False
    with contextlib.suppress(Exception):
        connection.terminate()
    return True


def sqlstate_of(error: BaseException) -> str | None:
    return getattr(error, "sqlstate", None)


def no_connection(error: Exception, url: str) -> Exception:
    """Return `Unavailable` for a failure to connect, without the URL, which contains a password."""
    if isinstance(error, TimeoutError):
        return unavailable("not_responding", "or all of this process's connections are in use")
    if isinstance(
        error, OSError | asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError
    ):
        if isinstance(error, asyncpg.ClientConfigurationError):
            return Unavailable(
                f"the database URL must look like postgresql://user:password@host:5432/database ({error})"
            )
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        if "unsupported startup parameter" in reason:
            reason += " (a pooler such as PgBouncer needs PERDURE_DATABASE_DIRECT_URL, too)"
        return Unavailable(
            f"cannot connect to the database{_at_address(url)}: {reason}", cause="no_connection"
        )
    return error


@contextlib.contextmanager
def while_connecting(url: str) -> Iterator[None]:
    """Raise `Unavailable` if the connection is lost meanwhile, such as at a restart of the database."""
    try:
        yield
    except Exception as error:
        if is_connection_error(error):
            raise no_connection(error, url) from error
        raise


def _at_address(url: str) -> str:
    """Return ` at host:port` for a message; nothing if the URL names no host."""
    try:
        parts = urlsplit(url)
        return f" at {parts.hostname}:{parts.port or 5432}" if parts.hostname else ""
    except ValueError:
        return ""
