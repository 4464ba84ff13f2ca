"""Secrets at rest: AES-256-GCM under a data key for each organization, itself wrapped by one master key.

A ciphertext is bound to the place it belongs to (its associated data), so that one row's secret cannot be
moved into another's. Which master key is in force is written in the database: every process that knows it
wraps new data keys under that one, so keys can be rotated while servers run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from perdure.domain.errors import Unavailable, Unreadable
from perdure.domain.ids import OrgId
from perdure.domain.times import Micros
from perdure.store.database import LOCK_ROW, Database, Tx
from perdure.store.master_key import KEY_BYTES, key_id

_NONCE = 12
"""Bytes: the nonce length that NIST SP 800-38D recommends for GCM."""
_BATCH = 1000
"""Rows that one statement changes: far below what a connection gives it time for."""


def _seal(key: bytes, plain: bytes, place: str) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plain, place.encode())


def _open(key: bytes, sealed: bytes, place: str) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], place.encode())
    except InvalidTag:
        raise Unreadable("a secret cannot be opened: is this the master key that sealed it?") from None


class Vault:
    """Seals and opens secrets. Data keys are unwrapped once a process.

    Args:
        load: the master keys that this process has, the one to begin a new database with first. It is asked
            again when the database is under a key that is not among them: a file may have changed.
    """

    def __init__(self, load: Callable[[], Sequence[bytes]]) -> None:
        self._load = load
        self._masters: dict[str, bytes] = {}
        self._data_keys: dict[str, bytes] = {}
        self._read_masters()

    def _read_masters(self) -> None:
        self._masters = {key_id(key): key for key in self._load()}

    def _master(self, name: str) -> bytes:
        if name not in self._masters:
            self._read_masters()
        try:
            return self._masters[name]
        except KeyError:
            raise Unreadable(
                f"secrets are sealed under the master key {name}, which this process does not have"
            ) from None

    async def add_org(self, tx: Tx, org_id: OrgId, now: Micros) -> None:
        """Make the organization's data key, under the master key in force; part of making the organization.

        Raises:
            Unreadable: this process does not have that key.
        """
        name = await self.current(tx, lock=True)
        if name is None:
            name = next(iter(self._masters))
            await tx.run("INSERT INTO sealing (one, master_id, changed_at) VALUES (1, ?, ?)", name, now)
        wrapped = _seal(self._master(name), os.urandom(KEY_BYTES), _org_place(org_id))
        await tx.run(
            "INSERT INTO org_keys (org_id, master_id, wrapped, created_at) VALUES (?, ?, ?, ?)",
            org_id,
            name,
            wrapped,
            now,
        )

    async def current(self, tx: Tx, *, lock: bool = False) -> str | None:
        """The name of the master key in force; None in a database that has sealed nothing yet."""
        row = await tx.one(
            f"SELECT master_id FROM sealing WHERE one = 1{LOCK_ROW[tx.dialect] if lock else ''}"
        )
        return None if row is None else row[0]

    async def rewrap(self, tx: Tx, master: bytes, now: Micros) -> int:
        """Wrap every data key under this master key, and put it in force; how many data keys that were.

        All in one transaction: whoever looks sees all of them under the old key or all under the new one.

        Raises:
            Unreadable: a data key cannot be unwrapped; nothing is changed.
        """
        await tx.take_time()
        name = key_id(master)
        await self.current(tx, lock=True)
        rows = await tx.all("SELECT org_id, master_id, wrapped FROM org_keys")
        changed = [
            (
                name,
                _seal(
                    master, _open(self._master(row[1]), bytes(row[2]), _org_place(row[0])), _org_place(row[0])
                ),
                row[0],
            )
            for row in rows
            if row[1] != name
        ]
        for first in range(0, len(changed), _BATCH):
            await tx.run_many(
                "UPDATE org_keys SET master_id = ?, wrapped = ? WHERE org_id = ?",
                changed[first : first + _BATCH],
            )
        await tx.run("UPDATE sealing SET master_id = ?, changed_at = ? WHERE one = 1", name, now)
        return len(changed)

    async def _data_key(self, tx: Tx, org_id: OrgId) -> bytes:
        key = self._data_keys.get(org_id)
        if key is None:
            row = await tx.one("SELECT master_id, wrapped FROM org_keys WHERE org_id = ?", org_id)
            if row is None:
                raise Unreadable("the organization has no data key")
            key = self._data_keys[org_id] = _open(self._master(row[0]), bytes(row[1]), _org_place(org_id))
        return key

    async def seal(self, tx: Tx, org_id: OrgId, plain: str, place: str) -> bytes:
        """Encrypt a secret for the place it will be kept in."""
        return _seal(await self._data_key(tx, org_id), plain.encode(), place)

    async def open(self, tx: Tx, org_id: OrgId, sealed: bytes, place: str) -> str:
        """The secret.

        Raises:
            Unreadable: another master key sealed it, or it was moved or changed.
        """
        return _open(await self._data_key(tx, org_id), bytes(sealed), place).decode()

    async def check(self, database: Database) -> str | None:
        """Fail early without the master key in force; its name, None if nothing is sealed yet.

        Raises:
            Unavailable: this process does not have it; the message says what to do.
        """
        name = await database.read(self.current)
        try:
            if name is not None:
                self._master(name)
        except Unreadable:
            raise Unavailable(
                f"this database's secrets are sealed under the master key {name}, which is not"
                " here: set PERDURE_MASTER_KEY to it "
                "(or PERDURE_MASTER_KEY_PREVIOUS, while keys are being rotated), or"
                " put its file back as master.key in the data folder"
            ) from None
        return name


def _org_place(org_id: OrgId) -> str:
    """What an organization's data key is bound to."""
    return f"org-key/{org_id}"
