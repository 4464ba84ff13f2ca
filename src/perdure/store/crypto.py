"""Secrets at rest: AES-256-GCM under a data key for each organization, itself wrapped by one master key.

The master key comes from the environment or from a file that only its owner may read. A ciphertext is bound to the place it
belongs to (its associated data), so that one row's secret cannot be moved into another's.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from perdure.domain.errors import Unavailable, Unreadable
from perdure.domain.times import Micros
from perdure.store.database import Database, Tx

_NONCE = 12
"""Bytes: the nonce length that NIST SP 800-38D recommends for GCM."""
_KEY = 32


def parse_master_key(text: str) -> bytes:
    """A master key from its text: 32 bytes as base64 or as 64 hex digits.

    Raises:
        Unavailable: it is neither. The text itself is not repeated.
    """
    text = text.strip()
    try:
        key = bytes.fromhex(text) if len(text) == 2 * _KEY else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != _KEY:
        raise Unavailable("the master key must be 32 bytes, written as base64 or as 64 hex digits")
    return key


def load_master_key(path: Path) -> bytes:
    """The key in this file, made (mode 0600) if there is none.

    Raises:
        Unavailable: the file cannot be read or holds no key.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return parse_master_key(path.read_text("ascii"))
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(base64.b64encode(os.urandom(_KEY)).decode() + "\n")
            file.flush()
            os.fsync(file.fileno())
        return parse_master_key(path.read_text("ascii"))
    except OSError as error:
        raise Unavailable(f"cannot read the master key file {path.name}: {error.strerror}") from error


def _seal(key: bytes, plain: bytes, place: str) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plain, place.encode())


def _open(key: bytes, sealed: bytes, place: str) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], place.encode())
    except InvalidTag:
        raise Unreadable("a secret cannot be opened: is this the master key that sealed it?") from None


class Vault:
    """Seals and opens secrets. Data keys are unwrapped once a process."""

    def __init__(self, master_key: bytes) -> None:
        self._master = master_key
        self._data_keys: dict[str, bytes] = {}

    async def add_org(self, tx: Tx, org_id: str, now: Micros) -> None:
        """Make the organization's data key; part of making the organization."""
        wrapped = _seal(self._master, os.urandom(_KEY), f"org-key/{org_id}")
        await tx.run("INSERT INTO org_keys (org_id, wrapped, created_at) VALUES (?, ?, ?)", org_id, wrapped, now)

    async def _data_key(self, tx: Tx, org_id: str) -> bytes:
        key = self._data_keys.get(org_id)
        if key is None:
            row = await tx.one("SELECT wrapped FROM org_keys WHERE org_id = ?", org_id)
            if row is None:
                raise Unreadable("the organization has no data key")
            key = self._data_keys[org_id] = _open(self._master, bytes(row[0]), f"org-key/{org_id}")
        return key

    async def seal(self, tx: Tx, org_id: str, plain: str, place: str) -> bytes:
        """Encrypt a secret for the place it will be kept in."""
        return _seal(await self._data_key(tx, org_id), plain.encode(), place)

    async def open(self, tx: Tx, org_id: str, sealed: bytes, place: str) -> str:
        """The secret.

        Raises:
            Unavailable: another master key sealed it, or it was moved or changed.
        """
        return _open(await self._data_key(tx, org_id), bytes(sealed), place).decode()

    async def check(self, database: Database) -> None:
        """Fail early if the master key is not the one that this database was made with.

        Raises:
            Unavailable: it is another one.
        """

        async def body(tx: Tx) -> None:
            row = await tx.one("SELECT org_id FROM org_keys ORDER BY created_at LIMIT 1")
            if row is not None:
                await self._data_key(tx, row[0])

        await database.read(body)
