"""The key that the tokens of callbacks are signed with, on both databases."""

from __future__ import annotations

import asyncio

from perdure.store.callbacks import signing_key
from perdure.store.database import Database
from tests.conformance.places import Place


async def test_all_servers_of_a_database_sign_with_one_key(place: Place, database: Database) -> None:
    databases = [database, *[await place.open() for _ in range(4)]]
    keys = await asyncio.gather(*map(signing_key, databases))
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    assert await signing_key(database) == keys[0]
