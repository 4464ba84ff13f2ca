"""Transactions of audited requests: each writes what it changed into the audit log, before it commits.

So an entry is there exactly if its change is. The transaction's statements are looked at: before one changes
rows of the watched table, these rows are read, and once more at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from msgspec.structs import replace

from perdure.domain.audits import Origin
from perdure.domain.times import Micros
from perdure.store.audit_changes import AuditedTx, Change, Names, Seen, names_of
from perdure.store.audit_entries import Maker, add_entries, entry_of
from perdure.store.audit_tables import Audited
from perdure.store.crypto import Vault
from perdure.store.database import Body, Database, Further, NotSingle, T, Tx
from perdure.store.wrapped import WrappedDatabase


class AuditedDatabase(WrappedDatabase):
    """A database for one audited request."""

    def __init__(
        self, inner: Database, vault: Vault, now: Callable[[], Micros], origin: Origin, audited: Audited
    ) -> None:
        super().__init__(inner)
        self._vault = vault
        self._now = now
        self._origin = origin
        self._audited = audited

    async def write(self, body: Body[T], *, single: bool = False) -> T:
        """Run the body in one transaction, and add its entries to the audit log.

        A single statement adds its entry itself, if it can.
        """

        async def watched(tx: Tx) -> T:
            audited = AuditedTx(tx, self._audited.kinds, self._origin, self._record, self._entry)
            result = await body(audited)
            if not tx.single:
                await audited.record()
            return result

        if single:
            with contextlib.suppress(NotSingle):
                return await self._inner.write(watched, single=True)
        return await self._inner.write(watched)

    def _origin_of(self, tx: AuditedTx) -> Origin:
        if self._origin.reason is None and tx.note is not None:
            return replace(self._origin, reason=tx.note)
        return self._origin

    async def _record(self, tx: AuditedTx) -> None:
        origin, changes = self._origin_of(tx), await tx.changes()
        if changes:
            names = tx.names or await names_of(tx.inner, origin)
            maker = Maker(origin, names, self._now())
            await add_entries(tx.inner, self._vault, maker, self._audited, changes, tx.more)

    async def _entry(self, tx: AuditedTx, change: Change, seen: Seen) -> Further | None:
        maker = Maker(self._origin_of(tx), Names(None, None), self._now())
        return await entry_of(tx.inner, self._vault, maker, self._audited, change, private=seen.private)
