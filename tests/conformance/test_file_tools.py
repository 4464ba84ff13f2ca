"""File tools and the shell on both databases: what they cost other work."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import pytest

from perdure.app.context import Services
from perdure.capabilities.port import ToolContext, ToolOutcome
from perdure.domain.errors import TooLarge
from perdure.domain.ids import ToolCallId, TurnId
from perdure.domain.redaction import Redactor
from perdure.store.bus import LocalBus
from perdure.store.crypto import Vault
from perdure.store.database import Body, Database, T
from perdure.store.queue import LocalQueue
from perdure.store.session_deletion import mark_deleted
from perdure.store.shell_states import read_shell_state, write_shell_state
from perdure.tools.bashkit_shell import bashkit_shell
from perdure.tools.session_file_system import session_file_system
from tests.conformance.desk import NOW, ORG, Desk, count
from tests.conformance.test_workspaces_store import new_session


class Watched:
    """A database that records how it was read."""

    def __init__(self, inner: Database) -> None:
        self.inner = inner
        self.dialect = inner.dialect
        self.reads: list[bool] = []

    async def read(self, body: Body[T], *, long: bool = False, seconds: float | None = None) -> T:
        self.reads.append(long)
        return await self.inner.read(body, long=long)

    async def write(self, body: Body[T], *, single: bool = False) -> T:
        return await self.inner.write(body, single=single)

    async def close(self) -> None:
        await self.inner.close()


async def use(desk: Desk, name: str, database: Database | None = None, **arguments: Any) -> ToolOutcome:
    """Call a tool of a session in the desk's workspace."""
    row = await new_session(desk.database, workspace_id=desk.id)
    services = Services(
        database or desk.database,
        LocalQueue(asyncio.ensure_future),
        LocalBus(),
        Vault(lambda: (b"k" * 32,)),
        lambda: NOW,
        file_limits=desk.limits,
    )
    context = ToolContext(
        org_id=ORG,
        session_id=row.id,
        workspace_id=desk.id,
        turn_id=TurnId(""),
        tool_call_id=ToolCallId(""),
        now=lambda: NOW,
        progress=lambda text: None,
        output=lambda stream, text: None,
        redactor=Redactor({}),
    )
    capabilities = (session_file_system(services), bashkit_shell(services))
    (tool,) = [tool for each in capabilities for tool in each.tools(None) if tool.name == name]
    return await tool.run(context, arguments)


async def test_an_edit_that_would_grow_too_large_is_refused_before_it_is_made(desk: Desk) -> None:
    await desk.write("/a", b"a" * 1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            await use(desk, "edit_file", path="/a", old_text="a", new_text="b" * 1_000, replace_all=True)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


async def test_the_shell_reads_the_files_off_the_event_loop(desk: Desk) -> None:
    await desk.write("/a", b"hi\n")
    watched = Watched(desk.database)
    assert (await use(desk, "bash", watched, command="cat a")).value["stdout"] == "hi\n"
    assert watched.reads == [False, True]  # the size first, then the files


async def test_a_command_that_outlives_its_session_stores_no_shell_state(database: Database) -> None:
    row = await new_session(database)
    await database.write(lambda tx: write_shell_state(tx, ORG, row.id, "X=1", NOW))
    assert await database.read(lambda tx: read_shell_state(tx, ORG, row.id)) == "X=1"
    await database.write(lambda tx: mark_deleted(tx, row, NOW))
    await database.write(lambda tx: write_shell_state(tx, ORG, row.id, "X=2", NOW))
    assert await count(database, "shell_states") == 0
