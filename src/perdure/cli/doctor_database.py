"""What `perdure doctor` checks of the database. It changes nothing, and a server may be running."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.cli.finding import Finding
from perdure.domain.errors import PerdureError
from perdure.settings import Settings
from perdure.store.data_folder import LOCK
from perdure.store.database import Database
from perdure.store.diagnosis import damage_of, read_migrations, write_fault

if TYPE_CHECKING:
    from perdure.store.postgres.database import PostgresDatabase

AHEAD = 60.0
"""Seconds by which stored times may be ahead of this machine's clock, and clocks may differ at all."""
APART = 2.0
"""Seconds by which clocks may differ without a warning."""
PROCESS = 15
"""Connections that a process of the server opens at most."""


async def check_database(settings: Settings) -> list[Finding]:
    """Check the database that the settings name, and its master key."""
    if settings.database_url:
        return await _postgres(settings)
    file = settings.data_folder / "perdure.db"
    if not file.exists():
        return [
            Finding("database", "ok", f"{file} does not exist: the server makes it"),
            Finding("keys", "skip", "there is nothing encrypted yet"),
        ]
    from perdure.store.sqlite import open_sqlite

    used = _is_used(settings)
    found = [_integrity(file), _writable(file, used=used)]
    if any(each.status == "fail" for each in found):
        return found
    try:
        database = await open_sqlite(file)
    except PerdureError as error:
        return [*found, Finding("database", "fail", error.message, "Restore a backup.")]
    try:
        return [*found, *await _contents(settings, database)]
    finally:
        await database.close()


def _is_used(settings: Settings) -> bool:
    """Whether a server runs on the data folder."""
    try:
        handle = os.open(settings.data_folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _integrity(file: Path) -> Finding:
    damage = damage_of(file)
    if damage is None:
        return Finding("database", "ok", f"SQLite {sqlite3.sqlite_version}: every page can be read")
    detail = f"the file is damaged: {damage}"
    return Finding("database", "fail", detail, "Stop the server and restore a backup.")


def _writable(file: Path, *, used: bool) -> Finding:
    fault = write_fault(file)
    if fault is None:
        said = "a server is using the file" if used else "the file can be written"
        return Finding("database writes", "ok", said)
    return Finding(
        "database writes",
        "fail",
        f"the file cannot be written: {fault}",
        "Check its owner and mode, whether the disk is mounted read-only, and who else holds it.",
    )


async def _contents(settings: Settings, database: Database) -> list[Finding]:
    return [await _migrations(database), await _keys(settings, database)]


async def _migrations(database: Database) -> Finding:
    try:
        done = await database.read(read_migrations)
    except Exception as error:  # noqa: BLE001 (whatever is wrong with the tables, the other checks go on)
        return Finding(
            "migrations",
            "warn",
            f"they cannot be read ({type(error).__name__}): the database is new, or another program's",
            "A server migrates a new database when it starts.",
        )
    if done.unknown is not None:
        return Finding(
            "migrations",
            "fail",
            f"the database is at {done.unknown}, and this version knows {done.newest}",
            "Use the version of Perdure that migrated it, or a newer one.",
        )
    if done.edited is not None:
        detail = f"number {done.edited} was another file when it was made"
        return Finding("migrations", "fail", detail, "Use an unchanged release of Perdure.")
    if done.at > time.time() + AHEAD:
        detail = "the last one was made in the future: this machine's clock is behind"
        return Finding("migrations", "fail", detail, "Set the clock, and keep it with NTP.")
    if done.missing:
        detail = f"{done.missing} are to be made"
        return Finding("migrations", "warn", detail, "The server makes them when it starts.")
    return Finding("migrations", "ok", f"all {done.known} are made")


async def _keys(settings: Settings, database: Database) -> Finding:
    from perdure.store.crypto import Vault
    from perdure.wiring import master_keys

    try:
        current = await Vault(lambda: master_keys(settings)).check(database)
    except PerdureError as error:
        return Finding("keys", "fail", error.message, "Without the key, stored secrets cannot be read.")
    except Exception as error:  # noqa: BLE001 (as above)
        return Finding("keys", "skip", f"the keys cannot be read: {type(error).__name__}")
    if current is None:
        return Finding("keys", "ok", "nothing is encrypted yet")
    where = "PERDURE_MASTER_KEY" if settings.master_key else str(settings.data_folder / "master.key")
    advice = "" if settings.master_key else "Keep a copy of the file apart from the backups of the database."
    return Finding("keys", "ok", f"the master key {current} is there, in {where}", advice)


async def _postgres(settings: Settings) -> list[Finding]:
    try:
        from perdure.store.postgres.database import open_postgres
    except ImportError:
        return [
            Finding("database", "fail", "PostgreSQL needs more packages", "pip install 'perdure[postgres]'")
        ]
    try:
        database = await open_postgres(
            settings.database_url, direct_url=settings.database_direct_url, max_size=2
        )
    except PerdureError as error:
        advice = "Check PERDURE_DATABASE_URL, the network and the server's pg_hba.conf."
        return [Finding("database", "fail", error.message, advice)]
    try:
        return [
            *await _postgres_settings(database),
            await _notifications(database),
            *await _contents(settings, database),
        ]
    except PerdureError as error:
        return [Finding("database", "fail", error.message)]
    finally:
        await database.close()


Judge = Callable[[str], bool]
_SETTINGS: tuple[tuple[str, Judge, str, str, str], ...] = (
    (
        "fsync",
        lambda value: value == "on",
        "fail",
        "a crash of its machine can lose or damage everything",
        "Set fsync = on.",
    ),
    (
        "synchronous_commit",
        lambda value: value != "off",
        "fail",
        "a crash can lose what was acknowledged",
        "Set synchronous_commit = on.",
    ),
    (
        "full_page_writes",
        lambda value: value == "on",
        "warn",
        "a crash of its machine can damage pages",
        "Set full_page_writes = on, unless the file system writes pages whole.",
    ),
    (
        "max_connections",
        lambda value: int(value) >= 2 * PROCESS,
        "warn",
        f"each process of the server opens up to {PROCESS} connections",
        "Raise max_connections, or run fewer processes.",
    ),
    (
        "autovacuum",
        lambda value: value == "on",
        "warn",
        "the queue's table grows without it",
        "Set autovacuum = on.",
    ),
)


async def _postgres_settings(database: PostgresDatabase) -> list[Finding]:
    from perdure.store.postgres.diagnosis import read_facts

    names, began = [name for name, *_ in _SETTINGS], time.time()
    facts = await database.read(lambda tx: read_facts(tx, names))
    found = [Finding("database", "ok", f"PostgreSQL {facts.version} answers")]
    found.append(
        Finding(
            "database writes",
            "fail",
            "the server is a standby: it accepts no changes",
            "Name the primary in PERDURE_DATABASE_URL, or add target_session_attrs=read-write.",
        )
        if facts.standby
        else Finding("database writes", "ok", "the server accepts changes")
    )
    for name, is_good, status, why, advice in _SETTINGS:
        value = facts.settings.get(name, "")
        if value and not is_good(value):
            found.append(
                Finding(
                    f"setting {name}", "fail" if status == "fail" else "warn", f"it is {value}: {why}", advice
                )
            )
    if all(not each.check.startswith("setting") for each in found):
        found.append(Finding("settings of PostgreSQL", "ok", f"{', '.join(names)} are as they should be"))
    return [*found, clock_finding("clock", began, facts.clock, time.time(), "the database's")]


def clock_finding(check: str, before: float, other: float, after: float, whose: str) -> Finding:
    """Compare another clock with this machine's, of which it was asked between `before` and `after`."""
    apart = max(before - other, other - after, 0.0)
    if apart <= APART:
        return Finding(check, "ok", f"this machine's clock and {whose} agree")
    return Finding(
        check,
        "fail" if apart > AHEAD else "warn",
        f"this machine's clock and {whose} differ by {apart:.0f} seconds",
        "Keep both with NTP: schedules, deadlines and signatures depend on them.",
    )


async def _notifications(database: PostgresDatabase) -> Finding:
    from perdure.store.postgres.diagnosis import hears_itself

    if await hears_itself(database):
        return Finding("notifications", "ok", "LISTEN and NOTIFY work")
    return Finding(
        "notifications",
        "warn",
        "NOTIFY does not arrive: turns start, and followers hear, seconds late",
        "A pooler in transaction mode does this: connect to PostgreSQL directly, or in session mode.",
    )
