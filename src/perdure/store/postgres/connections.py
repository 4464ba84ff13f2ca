"""Connections to PostgreSQL: their settings, and pools of them."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from perdure.store.postgres.lost import no_connection

SETTINGS = {
    "application_name": "perdure",
    "default_transaction_isolation": "read committed",
    # Milliseconds. By then the caller of a statement has given up, and the holder of a lock is stuck.
    "statement_timeout": "30000",
    "lock_timeout": "10000",
    # Transactions await only the database, so an idle one belongs to a paused or partitioned process.
    "idle_in_transaction_session_timeout": "10000",
    # All statements are short: compiling one takes longer than running it.
    "jit": "off",
    # Statements are prepared once. Planning for each set of arguments finds the same plan, but takes an
    # eighth more of the server's CPU.
    "plan_cache_mode": "force_generic_plan",
}
"""Server settings of each connection; those in the URL (`?statement_timeout=...`) override them."""

_OF_A_TRANSACTION = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "jit")
_LOCAL = "".join(f"; SET LOCAL {name} = '{SETTINGS[name]}'" for name in _OF_A_TRANSACTION)
"""What a transaction sets for itself behind a pooler, where no connection keeps settings."""
BEGIN = {False: "BEGIN", True: f"BEGIN ISOLATION LEVEL READ COMMITTED{_LOCAL}"}
BEGIN_READ = f"BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY{_LOCAL}"
"""How transactions begin: by whether there is a pooler; and reads, which need one only behind a pooler."""

CONNECT_SECONDS = 5.0
COMMAND_SECONDS = 40.0
"""The client's timeout for a statement, for a server that does not answer at all. It exceeds the server's
own limits."""
CLOSE_SECONDS = 10.0


async def open_pool(
    url: str, min_size: int, max_size: int, settings: dict[str, str], *, pooled: bool = False
) -> Any:
    """Open a pool of connections.

    Args:
        min_size, max_size: how many stay open, and how many there are at most.
        settings, pooled: as for `connection_options`.

    Raises:
        Unavailable: no server answers, or it refuses the connection.
    """
    try:
        return await asyncpg.create_pool(
            url,
            min_size=min_size,
            max_size=max_size,
            reset=_no_reset,
            max_queries=1_000_000,
            **connection_options(url, settings, pooled=pooled),
        )
    except Exception as error:
        raise no_connection(error, url) from error


def connection_options(url: str, settings: dict[str, str], *, pooled: bool = False) -> dict[str, Any]:
    """Return how to connect: `settings` of the server, unless the URL has others.

    Args:
        pooled: whether a pooler lends connections for single transactions: they keep neither settings nor
            prepared statements.
    """
    named = parse_qs(urlsplit(url).query)
    ours = {name: value for name, value in {**SETTINGS, **settings}.items() if name not in named}
    if pooled:
        name = {"application_name": SETTINGS["application_name"]}
        return {
            "server_settings": name,
            "timeout": CONNECT_SECONDS,
            "command_timeout": COMMAND_SECONDS,
            "statement_cache_size": 0,
        }
    return {
        "server_settings": ours,
        "timeout": CONNECT_SECONDS,
        "command_timeout": COMMAND_SECONDS,
        "statement_cache_size": 512,
        "max_cached_statement_lifetime": 0,
    }


async def close_pool(pool: Any) -> None:
    """Close a pool once its connections are released; terminate those that are not within the timeout."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await pool.close()
    except TimeoutError:
        pool.terminate()


async def _no_reset(connection: Any) -> None:
    """Do nothing: connections keep no session settings, listeners or temporary tables."""
