"""No table is forgotten by erasures."""

from __future__ import annotations

from pathlib import Path

from perdure.settings import Settings
from perdure.store.database import Database
from perdure.wiring import open_parts
from tests.conformance.test_migrations import columns_of
from tests.erasable import (
    NAMES_A_SESSION,
    NAMES_A_USER,
    OF_SESSIONS,
    OF_USERS,
    PSEUDONYMOUS,
    QUEUES,
    SHARED,
    STAYS,
)

INDEXED = {"sqlite_stat1", "sqlite_sequence"}
LEFT = {
    "model_calls", "memory_versions", "erasures", "budget_holds", "processes", "minute_counts", "limits",
    "agent_versions", "feedback", "participants", "input_requests",
}  # fmt: skip
"""Tables whose rows may name a session or a user that is erased. What they have is figures and ids, or what
follows from the log of somebody else's session."""


async def _columns(database: Database) -> set[tuple[str, str]]:
    return {each for each in await columns_of(database) if each[0] not in INDEXED | QUEUES}


async def test_an_erasure_knows_every_table(tmp_path: Path, database_url: str) -> None:
    async with open_parts(Settings(data=str(tmp_path / "data"), database_url=database_url)) as parts:
        tables = {table for table, _ in await _columns(parts.app.database)}
    known = OF_SESSIONS | OF_USERS | PSEUDONYMOUS | set(SHARED) | set(STAYS)
    assert tables - known == set(), "say in tests/erasable.py what an erasure does with these"
    assert known - tables == set(), "there are no such tables"


async def test_whatever_names_a_session_or_a_user_goes_with_it_or_is_known_to_stay(
    tmp_path: Path, database_url: str
) -> None:
    async with open_parts(Settings(data=str(tmp_path / "data"), database_url=database_url)) as parts:
        columns = await _columns(parts.app.database)
    of_sessions = {table for table, column in columns if column in NAMES_A_SESSION}
    of_users = {table for table, column in columns if column in NAMES_A_USER}
    assert of_sessions - OF_SESSIONS - LEFT == set()
    assert of_users - OF_USERS - PSEUDONYMOUS - OF_SESSIONS - LEFT == set()
