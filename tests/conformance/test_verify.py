"""`perdure verify` finds every projection that was changed behind the server's back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest
import pytest_asyncio

from tests.deferring import installed
from tests.keeping import fill, keep, verified
from tests.postgres_server import PostgresServer
from tests.server import Server


@dataclass
class World:
    """A server's database with something of everything. The server runs meanwhile."""

    server: Server
    session: str

    async def execute(self, sql: str) -> None:
        """Change the database behind the server's back."""
        if not self.server.database_url:
            with closing(sqlite3.connect(self.server.data / "perdure.db", timeout=30)) as connection:
                connection.create_function(
                    "lower", 1, lambda text: text and text.casefold(), deterministic=True
                )
                connection.executescript(sql)
                connection.commit()
            return
        connection = await asyncpg.connect(self.server.database_url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["sqlite", "postgres"])
async def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("verify")
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    environment = installed(folder / "site")
    async with (
        Server(folder / "data", database_url=url, environment=environment) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        yield World(server, await fill(http, folder))


CORRUPTIONS = {
    "log": (
        "UPDATE events SET sequence = sequence + 1000000 WHERE session_id = '{s}' AND sequence = 3",
        "UPDATE events SET sequence = 3 WHERE session_id = '{s}' AND sequence = 1000003",
    ),
    "log of nobody": (
        (
            "INSERT INTO events (session_id, sequence, org_id, id, type, ts, context, data)"
            " SELECT 'session_nobody', 1, org_id, 'event_x', type, ts, context, data FROM events"
            " WHERE session_id = '{s}' AND sequence = 1"
        ),
        "DELETE FROM events WHERE session_id = 'session_nobody'",
    ),
    "session": (
        "UPDATE sessions SET status = 'paused' WHERE id = '{s}'",
        "UPDATE sessions SET status = 'idle' WHERE id = '{s}'",
    ),
    "session's preview": (
        "UPDATE sessions SET preview = preview || '!' WHERE id = '{s}'",
        "UPDATE sessions SET preview = SUBSTR(preview, 1, LENGTH(preview) - 1) WHERE id = '{s}'",
    ),
    "tasks": (
        "UPDATE tasks SET state = state || '!' WHERE session_id = '{s}'",
        "UPDATE tasks SET state = REPLACE(state, '!', '') WHERE session_id = '{s}'",
    ),
    "tasks' contents": (
        "UPDATE tasks SET task = REPLACE(task, 'slow', 'fast') WHERE session_id = '{s}'",
        "UPDATE tasks SET task = REPLACE(task, 'fast', 'slow') WHERE session_id = '{s}'",
    ),
    "task_messages": (
        (
            "INSERT INTO task_messages (id, org_id, task_id, place, message)"
            " SELECT 'message_x', org_id, id, 99, '{{}}' FROM tasks WHERE session_id = '{s}' LIMIT 1"
        ),
        "DELETE FROM task_messages WHERE id = 'message_x'",
    ),
    "feedback": (
        "UPDATE feedback SET rating = 'down' WHERE session_id = '{s}'",
        "UPDATE feedback SET rating = 'up' WHERE session_id = '{s}'",
    ),
    "participants": (
        "UPDATE participants SET left_at = 1 WHERE session_id = '{s}'",
        "UPDATE participants SET left_at = NULL WHERE session_id = '{s}'",
    ),
    "client_messages": (
        "UPDATE client_messages SET sequence = sequence - 1 WHERE session_id = '{s}'",
        "UPDATE client_messages SET sequence = sequence + 1 WHERE session_id = '{s}'",
    ),
    "parked_calls": (
        "UPDATE callbacks SET answered_at = 1",
        "UPDATE callbacks SET answered_at = NULL",
    ),
    "ledger": (
        "UPDATE model_calls SET input_tokens = input_tokens + 1 WHERE session_id = '{s}'",
        "UPDATE model_calls SET input_tokens = input_tokens - 1 WHERE session_id = '{s}'",
    ),
    "ledger's rows": (
        "UPDATE model_calls SET id = id || 'x' WHERE session_id = '{s}'",
        "UPDATE model_calls SET id = REPLACE(id, 'x', '') WHERE session_id = '{s}'",
    ),
    "counts": (
        "UPDATE session_totals SET sessions = sessions + 1",
        "UPDATE session_totals SET sessions = sessions - 1",
    ),
    "workspaces": (
        "UPDATE workspaces SET size_bytes = size_bytes + 1",
        "UPDATE workspaces SET size_bytes = size_bytes - 1",
    ),
    "files": (
        "UPDATE files SET hash = hash || 'x' WHERE is_directory = 0",
        "UPDATE files SET hash = REPLACE(hash, 'x', '') WHERE is_directory = 0",
    ),
    "memories": (
        "UPDATE memories SET version_count = version_count + 1",
        "UPDATE memories SET version_count = version_count - 1",
    ),
    "contents": (
        "UPDATE blob_parts SET part = part + 9, hash = hash || 'x'",
        "UPDATE blob_parts SET part = part - 9, hash = REPLACE(hash, 'x', '')",
    ),
    "search": (
        "UPDATE sessions SET search_slot = 7 WHERE id = '{s}'",
        "UPDATE sessions SET search_slot = NULL WHERE id = '{s}'",
    ),
    "budgets": ("UPDATE budgets SET spent = spent + 1", "UPDATE budgets SET spent = spent - 1"),
    "budgets' reservations": (
        "UPDATE budget_shards SET reserved = reserved + 1",
        "UPDATE budget_shards SET reserved = reserved - 1",
    ),
    "rows": (
        "INSERT INTO pins (session_id, user_id, org_id, created_at) VALUES ('session_no', 'u', 'o', 1)",
        "DELETE FROM pins WHERE session_id = 'session_no'",
    ),
}
"""By what differs then: a change behind the server's back, and what takes it back."""
OF_THE_SESSION = {
    "log", "session", "tasks", "task_messages", "feedback", "participants", "client_messages", "ledger",
}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
async def test_a_projection_that_was_changed_is_found(world: World, name: str) -> None:
    change, back = (sql.format(s=world.session) for sql in CORRUPTIONS[name])
    what = name.partition(" ")[0].removesuffix("'s").rstrip("'")
    assert (await verified(world.server.data, world.server.database_url))[1] == []
    await world.execute(change)
    try:
        _, found = await verified(world.server.data, world.server.database_url)
    finally:
        await world.execute(back)
    assert found
    assert {each.what for each in found} >= {what}
    if name in OF_THE_SESSION:
        assert world.session in {each.session_id for each in found}


async def test_the_command_lists_differences_by_session_and_its_status_tells(world: World) -> None:
    data, url = world.server.data, world.server.database_url
    good = await keep("verify", data, url)
    assert (good.status, "no difference" in good.out) == (0, True)
    change, back = (sql.format(s=world.session) for sql in CORRUPTIONS["session"])
    await world.execute(change)
    try:
        bad, as_json = (
            await keep("verify", data, url),
            await keep("verify", data, url, "--json", "--contents"),
        )
    finally:
        await world.execute(back)
    assert (bad.status, as_json.status) == (1, 1)
    assert f'{world.session} session: status: "paused" instead of "idle"' in bad.out
    *found, total = map(json.loads, as_json.out.splitlines())
    assert [(each["what"], each["session_id"]) for each in found] == [("session", world.session)]
    assert total["differences"] == 1


async def test_contents_that_were_changed_are_found_by_their_hashes(world: World) -> None:
    change = {"": "CAST('KEPT' AS BLOB)"}.get(world.server.database_url, "'KEPT'::bytea")
    back = change.replace("KEPT", "kept")
    await world.execute(f"UPDATE blob_parts SET content = {change} WHERE LENGTH(content) = 4")
    try:
        _, missed = await verified(world.server.data, world.server.database_url, contents=False)
        _, found = await verified(world.server.data, world.server.database_url)
    finally:
        await world.execute(f"UPDATE blob_parts SET content = {back} WHERE LENGTH(content) = 4")
    assert (missed, [each.what for each in found]) == ([], ["contents"])


async def test_a_database_of_another_version_or_of_nobody_is_refused(
    tmp_path: Path, empty_postgres_url: str
) -> None:
    nothing = await keep("verify", tmp_path, "")
    assert (nothing.status, "there is no database in" in nothing.err) == (1, True)
    empty = await keep("verify", tmp_path, empty_postgres_url)
    assert (empty.status, "has no tables of Perdure" in empty.err) == (1, True)
