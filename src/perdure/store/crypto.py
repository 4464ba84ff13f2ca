"""Secrets at rest: AES-256-GCM under a data key for each organization, itself wrapped by one master key.

A ciphertext is bound to its place, such as its row's id, by associated data, so that a secret cannot be moved
into another row. The database stores the name of the current master key, and every process wraps new data
keys under that one, so keys can be rotated while servers run.
"""

from __future__ import annotations

import hmac
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
"""The nonce length in bytes that NIST SP 800-38D recommends for GCM."""
_BATCH = 1000
"""Rows that one statement updates, few enough to stay far below a statement's timeout."""


def seal_under(key: bytes, plain: bytes, binding: str) -> bytes:
    """Encrypt under a key, bound to the place where it will be stored."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plain, binding.encode())


def open_under(key: bytes, sealed: bytes, binding: str) -> bytes:
    """Decrypt what was encrypted under a key for a place. Raises Unreadable."""
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], binding.encode())
    except (InvalidTag, ValueError):  # a ValueError if it is too short
        raise Unreadable(
            "a secret cannot be decrypted: it was encrypted under another master key, or has been altered"
        ) from None


class Vault:
    """Encrypts and decrypts secrets. Each data key is unwrapped once per process.

    Args:
        load: returns the master keys that this process has; a new database uses the first. It is called
            again when the database uses a key that is not among them, because the key file may have changed.
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
                f"secrets are encrypted under the master key {name}, which this process does not have"
            ) from None

    async def add_org(self, tx: Tx, org_id: OrgId, now: Micros) -> None:
        """Create the data key of a new organization, wrapped under the current master key.

        Raises:
            Unreadable: this process does not have the current master key.
        """
        name = await self.current(tx, lock=True)
        if name is None:
            name = next(iter(self._masters))
            await tx.run("INSERT INTO sealing (one, master_id, changed_at) VALUES (1, ?, ?)", name, now)
        wrapped = seal_under(self._master(name), os.urandom(KEY_BYTES), _org_binding(org_id))
        await tx.run(
            "INSERT INTO org_keys (org_id, master_id, wrapped, created_at) VALUES (?, ?, ?, ?)",
            org_id,
            name,
            wrapped,
            now,
        )

    async def current(self, tx: Tx, *, lock: bool = False) -> str | None:
        """Return the name of the current master key; None in a database without encrypted secrets."""
        row = await tx.one(
            f"SELECT master_id FROM sealing WHERE one = 1{LOCK_ROW[tx.dialect] if lock else ''}"
        )
        return None if row is None else row[0]

    async def rewrap(self, tx: Tx, master: bytes, now: Micros) -> int:
        """Wrap every data key under this master key, and make it the current one.

        This is one transaction, so readers see either all data keys under the old key or all under the new.

        Returns:
            The number of data keys that were wrapped again.

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
                seal_under(
                    master,
                    open_under(self._master(row[1]), bytes(row[2]), _org_binding(row[0])),
                    _org_binding(row[0]),
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
            key = self._data_keys[org_id] = open_under(
                self._master(row[0]), bytes(row[1]), _org_binding(org_id)
            )
        return key

    async def seal(self, tx: Tx, org_id: OrgId, plain: str, binding: str) -> bytes:
        """Encrypt a secret, bound to the place where it will be stored."""
        return seal_under(await self._data_key(tx, org_id), plain.encode(), binding)

    async def open(self, tx: Tx, org_id: OrgId, sealed: bytes, binding: str) -> str:
        """Decrypt a secret that is stored at this place.

        Raises:
            Unreadable: it was encrypted under another master key, moved or changed.
        """
        return open_under(await self._data_key(tx, org_id), bytes(sealed), binding).decode()

    async def digest_key(self, tx: Tx, org_id: OrgId) -> bytes:
        """Return the key of an organization's digests, without which nobody can try out short secrets.

        Raises:
            Unreadable: this process does not have the master key, or the organization has no data key.
        """
        return hmac.digest(await self._data_key(tx, org_id), b"digests of the audit log", "sha256")

    async def check(self, database: Database) -> str | None:
        """Check that this process has the current master key, so that a server without it does not start.

        Returns:
            The key's name; None in a database without encrypted secrets.

        Raises:
            Unavailable: this process does not have the key; the message says what to do.
        """
        name = await database.read(self.current)
        try:
            if name is not None:
                self._master(name)
        except Unreadable:
            raise Unavailable(
                f"this database's secrets are encrypted under the master key {name}, which this process does"
                f" not have (it has {', '.join(self._masters) or 'none'}): set PERDURE_MASTER_KEY to that key"
                " (or PERDURE_MASTER_KEY_PREVIOUS, during a rotation), or restore its file as master.key in"
                " the data folder"
            ) from None
        return name


def _org_binding(org_id: OrgId) -> str:
    """Return the associated data of an organization's wrapped data key."""
    return f"org-key/{org_id}"
