"""Rows of this server's OAuth clients, on both databases."""

from __future__ import annotations

import pytest

from perdure.domain.ids import new_id
from perdure.store import connections
from perdure.store.connections import find_client, issuers_of, put_client
from perdure.store.database import Database

ORG, OTHER = new_id("org"), new_id("org")
BACK = "https://perdure.example.com/v1/oauth/callback"


async def test_of_very_many_issuers_the_oldest_is_registered_anew(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CLIENTS", 3)
    await database.write(lambda tx: put_client(tx, OTHER, "https://old", BACK, b"x", 1))
    for number in range(5):
        issuer = f"https://as{number}"
        await database.write(
            lambda tx, issuer=issuer, number=number: put_client(tx, ORG, issuer, BACK, b"x", 10 + number)
        )
    kept = await database.read(lambda tx: issuers_of(tx, ORG, BACK))
    assert kept == ["https://as2", "https://as3", "https://as4"]
    assert await database.read(lambda tx: find_client(tx, OTHER, "https://old", BACK)) == b"x"
