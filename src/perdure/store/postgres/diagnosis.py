"""What `perdure doctor` asks a PostgreSQL server. Nothing is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from perdure.store.database import Tx
from perdure.store.postgres.database import PostgresDatabase

HEARD_WITHIN = 3.0
"""Seconds in which a notification arrives."""
_CHANNEL = "perdure_doctor"


class ServerFacts(Struct, frozen=True):
    """What a server says about itself.

    Attributes:
        standby: whether it accepts no changes.
        clock: its time, in seconds since the Unix epoch.
        settings: the values of its settings by name.
    """

    version: str
    standby: bool
    clock: float
    settings: dict[str, str]


async def read_facts(tx: Tx, names: Sequence[str]) -> ServerFacts:
    """Read what the server says about itself, and these settings, as far as it has them."""
    rows = await tx.all("SELECT name, setting FROM pg_settings WHERE name = ANY(?::text[])", names)
    one = await tx.one(
        "SELECT current_setting('server_version'), pg_is_in_recovery(),"
        " extract(epoch FROM clock_timestamp())::float8"
    )
    if one is None:
        raise AssertionError("a query without a table has one row")
    return ServerFacts(one[0], bool(one[1]), float(one[2]), {row[0]: row[1] for row in rows})


async def hears_itself(database: PostgresDatabase) -> bool:
    """Whether a notification arrives. A pooler in transaction mode loses them."""
    heard = asyncio.Event()
    connection = await database.connect()
    try:
        await connection.add_listener(_CHANNEL, lambda *_: heard.set())
        await database.read(lambda tx: tx.all("SELECT pg_notify(?, '')", _CHANNEL))
        async with asyncio.timeout(HEARD_WITHIN):
            await heard.wait()
    except TimeoutError:
        return False
    finally:
        await connection.close(timeout=HEARD_WITHIN)
    return True
