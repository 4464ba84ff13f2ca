"""Exports and imports of sessions and organizations, assembled from the settings."""

from __future__ import annotations

from pathlib import Path

from perdure import __version__
from perdure.app.accounts import bootstrap
from perdure.domain.errors import InvalidInput, NotFound
from perdure.domain.ids import OrgId, SessionId, UserId
from perdure.domain.times import to_rfc3339
from perdure.domain.transfers import FORMAT, VERSION, Header, Imported, OnConflict
from perdure.engine.context import SystemClock
from perdure.keeping import open_reads
from perdure.settings import Settings
from perdure.store.accounts import first_organization, get_organization, owners_of
from perdure.store.archives import Progress, new_file
from perdure.store.crypto import Vault
from perdure.store.database import Tx
from perdure.store.exports import ExportWriter, root_of, write_needed, write_organization, write_tree
from perdure.store.imports import Importer, check_export
from perdure.store.migrate import check_migrated, load_migrations
from perdure.wiring import Parts, master_keys, open_parts


async def export_to(
    settings: Settings,
    path: Path,
    progress: Progress,
    *,
    session_id: SessionId | None,
    org_id: OrgId | None,
    key: bytes | None,
) -> tuple[Header, int]:
    """Write an export of one moment to a new file. Servers may be running.

    Args:
        session_id: a session, which is exported with all below it; None for an organization.
        org_id: the organization; None for the first one.
        key: what secrets are sealed under; None leaves them out.

    Returns:
        The header, and the number of sessions.

    Raises:
        Conflict: the file exists.
        NotFound: the session or the organization does not exist.
        InvalidInput: the session is a sub-agent's.
        Unavailable: the database cannot be read, or the file not be written.
    """
    async with open_reads(settings) as reads, reads.snapshot() as tx:
        await check_migrated(tx)
        vault = None if key is None else Vault(lambda: master_keys(settings))
        root = None if session_id is None else await root_of(tx, session_id)
        found = await _organization(tx, org_id if root is None else root.org_id)
        now, newest = to_rfc3339(SystemClock().now()), load_migrations()[-1][0]
        header = Header(FORMAT, VERSION, __version__, now, newest, found, session_id, key is not None)
        with new_file(path) as file:
            out = ExportWriter(file, vault, key)
            out.line(header)
            if root is None:
                count = await write_organization(tx, out, found, progress)
            else:
                await write_needed(tx, out, root)
                count = await write_tree(tx, out, found, root.id)
            out.finish()
        return header, count


async def _organization(tx: Tx, org_id: OrgId | None) -> OrgId:
    row = await first_organization(tx) if org_id is None else await get_organization(tx, org_id)
    if row is None:
        raise NotFound("organization")
    return row.id


async def import_from(
    settings: Settings,
    path: Path,
    progress: Progress,
    *,
    org_id: OrgId | None,
    on_conflict: OnConflict,
    key: bytes | None,
) -> Imported:
    """Import an export. Can be repeated, also after it was interrupted. A server on SQLite has to be stopped.

    Args:
        org_id: the organization that gets it. By default an organization keeps its own id, and a session goes
            into the organization with the id that it had, or else into the first one.
        on_conflict: what becomes of sessions that are there already.
        key: what secrets are sealed under in the export; None leaves them out.

    Raises:
        InvalidInput: the file is no usable export, or its secrets were sealed under another key.
        NotFound: the organization does not exist.
        Unavailable: the database cannot be used.
    """
    header, rows = check_export(path, load_migrations()[-1][0], progress)
    if key is not None and not header.secrets:
        raise InvalidInput("the export has no secrets: leave --secrets-key out", code="invalid_key")
    async with open_parts(settings) as parts:
        target, owner = await _target(parts, header, org_id)
        importer = Importer(
            *(parts.database, parts.app.vault, header),
            key=key,
            org_id=target,
            owner_id=owner,
            on_conflict=on_conflict,
            now=parts.app.now(),
            progress=progress,
        )
        return await importer.run(path, rows)


async def _target(parts: Parts, header: Header, org_id: OrgId | None) -> tuple[OrgId, UserId | None]:
    """Return the organization that gets an export, and its owner; None if it is yet to be made."""
    wanted = org_id or header.org_id
    found = await parts.database.read(lambda tx: get_organization(tx, wanted))
    if found is None and org_id is not None:
        raise NotFound("organization")
    if found is None and header.session_id is None:
        return header.org_id, None
    if found is None:
        caller = await bootstrap(parts.app)
        return caller.organization_id, caller.user_id
    owners = await parts.database.read(lambda tx: owners_of(tx, wanted))
    return wanted, owners[0] if owners else None
