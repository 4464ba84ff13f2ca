"""Secrets and the keys above them, on both databases.

What is sealed stays readable while master keys are rotated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from perdure.domain.errors import Unavailable, Unreadable
from perdure.domain.ids import new_id
from perdure.store.crypto import Vault
from perdure.store.database import Database
from perdure.store.master_key import key_id
from tests.conformance.places import Place, eventually, soon

NOW = 1_700_000_000_000_000
OLD, NEW, NEWER = (bytes([number]) * 32 for number in (1, 2, 3))


def vault_with(*keys: bytes) -> Vault:
    return Vault(lambda: keys)


async def organizations(database: Database, vault: Vault, count: int = 3) -> dict[str, bytes]:
    """Organizations with a secret each: its ciphertext by the organization's id."""
    made = {}
    for _ in range(count):
        org = new_id("org")
        await database.write(lambda tx, org=org: vault.add_org(tx, org, NOW))
        made[org] = await database.write(lambda tx, org=org: vault.seal(tx, org, f"secret of {org}", "here"))
    return made


async def readable(database: Database, vault: Vault, sealed: dict[str, bytes]) -> bool:
    for org, each in sealed.items():
        if (
            await database.read(lambda tx, org=org, each=each: vault.open(tx, org, each, "here"))
            != f"secret of {org}"
        ):
            return False
    return True


async def test_rotating_wraps_every_data_key_and_leaves_the_secrets_as_they_are(database: Database) -> None:
    sealed = await organizations(database, vault_with(OLD))
    assert await database.write(lambda tx: vault_with(OLD).rewrap(tx, NEW, NOW)) == 3
    assert await readable(database, vault_with(NEW), sealed)
    assert await vault_with(NEW).check(database) == key_id(NEW)
    for org, each in sealed.items():
        with pytest.raises(Unreadable, match=key_id(NEW)):
            await database.read(lambda tx, org=org, each=each: vault_with(OLD).open(tx, org, each, "here"))
    with pytest.raises(Unavailable, match="PERDURE_MASTER_KEY_PREVIOUS"):
        await vault_with(OLD).check(database)
    assert await database.write(lambda tx: vault_with(NEW).rewrap(tx, NEW, NOW)) == 0


async def test_thousands_of_organizations_are_moved_at_once(database: Database) -> None:
    sealed = await organizations(database, vault_with(OLD), 1)
    (org,) = sealed
    row = await database.read(
        lambda tx: tx.one("SELECT master_id, wrapped FROM org_keys WHERE org_id = ?", org)
    )
    assert row is not None
    rows = [(f"{org}/{number}", row[0], row[1], NOW) for number in range(2500)]
    await database.write(
        lambda tx: tx.run_many(
            "INSERT INTO org_keys (org_id, master_id, wrapped, created_at) VALUES (?, ?, ?, ?)", rows
        )
    )
    # These keys are bound to another organization, so unwrapping them fails, and the whole rotation with it.
    with pytest.raises(Unreadable):
        await database.write(lambda tx: vault_with(OLD).rewrap(tx, NEW, NOW))
    assert await readable(database, vault_with(OLD), sealed)
    await database.write(lambda tx: tx.run("DELETE FROM org_keys WHERE org_id <> ?", org))
    vault = vault_with(OLD)
    for number in range(1200):
        await database.write(lambda tx, number=number: vault.add_org(tx, f"org_{number}", NOW))
    assert await database.write(lambda tx: vault.rewrap(tx, NEW, NOW)) == 1201
    assert await readable(database, vault_with(NEW), sealed)


async def test_whoever_has_both_keys_reads_before_and_after_and_writes_under_the_key_in_force(
    database: Database,
) -> None:
    both = vault_with(NEW, OLD)
    before = await organizations(database, vault_with(OLD))
    # The settings name NEW, but the database still uses OLD, and so do new data keys, because other processes
    # may have only OLD.
    before |= await organizations(database, both, 1)
    assert await readable(database, vault_with(OLD), before)
    await database.write(lambda tx: both.rewrap(tx, NEW, NOW))
    after = before | await organizations(database, vault_with(OLD, NEW), 1)
    for vault in (both, vault_with(NEW), vault_with(OLD, NEW)):
        assert await readable(database, vault, after)


async def test_a_running_process_without_the_new_key_reads_what_it_knows_and_seals_nothing_that_would_be_lost(
    database: Database,
) -> None:
    keys: list[Sequence[bytes]] = [(OLD,)]
    running = Vault(lambda: keys[-1])
    known, unknown = await organizations(database, running), await organizations(database, vault_with(OLD))
    await database.write(lambda tx: vault_with(OLD).rewrap(tx, NEW, NOW))
    assert await readable(database, running, known)
    with pytest.raises(Unreadable):
        await readable(database, running, unknown)
    with pytest.raises(Unreadable):
        await organizations(database, running, 1)
    keys.append((NEW,))  # its key file has been replaced: it looks again by itself
    assert await readable(database, running, unknown | await organizations(database, running, 1))


async def test_organizations_made_while_keys_are_rotated_end_up_under_the_new_one(
    place: Place, database: Database
) -> None:
    other = await place.open()
    both = vault_with(OLD, NEW, NEWER)
    sealed = await organizations(database, both, 1)
    stop = asyncio.Event()

    async def found() -> None:
        while not stop.is_set():
            sealed.update(await organizations(other, both, 1))

    async with asyncio.TaskGroup() as group:
        finders = [group.create_task(found()) for _ in range(3)]
        for key in (NEW, NEWER, OLD, NEW):
            count = len(sealed)
            await soon(database.write(lambda tx, key=key: both.rewrap(tx, key, NOW)))
            await eventually(lambda count=count: _later(len(sealed) > count + 3))
        stop.set()
        await soon(asyncio.gather(*finders))
    await database.write(lambda tx: both.rewrap(tx, NEWER, NOW))
    assert await readable(database, vault_with(NEWER), sealed)


async def _later(value: bool) -> bool:
    return value


async def test_a_secret_moved_to_another_place_or_organization_does_not_open(database: Database) -> None:
    vault = vault_with(OLD)
    (one, sealed), (two, _) = (await organizations(database, vault, 2)).items()
    for org, at in ((one, "there"), (two, "here")):
        with pytest.raises(Unreadable):
            await database.read(lambda tx, org=org, at=at: vault.open(tx, org, sealed, at))
    with pytest.raises(Unreadable, match="no data key"):
        await database.read(lambda tx: vault.open(tx, new_id("org"), sealed, "here"))
