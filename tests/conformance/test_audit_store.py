"""Entries of the audit log on both databases: with their change or not at all, and deleted only by age."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from perdure.app.accounts import add_member, bootstrap
from perdure.app.agents import change_agent, create_agent
from perdure.app.audits import audited_app, note_denied, page_of_audit_log
from perdure.app.confidential import close_to_others
from perdure.app.context import App
from perdure.app.file_access import OfSession
from perdure.app.files import copy_path, create_path, delete_path, move_path
from perdure.app.sessions import change_session, create_session, read_session
from perdure.domain.accounts import AddUser, Caller
from perdure.domain.agents import CreateAgent, UpdateAgent
from perdure.domain.audits import MAX_ROWS, AuditEntry, AuditFilter, Origin
from perdure.domain.files import CreateFile
from perdure.domain.ids import OrgId
from perdure.domain.sessions import CreateSession, UpdateSession
from perdure.settings import Settings
from perdure.store.audit_denied import Denied
from perdure.store.audit_erasure import delete_audit_entries_before
from perdure.store.audit_tables import AGENT, FILE, MEMBER, SESSION, WEBHOOK, Audited
from perdure.store.audited import AuditedDatabase
from perdure.store.database import Body, T, Tx
from perdure.store.sessions import look_session
from perdure.wiring import open_parts
from tests.conformance.places import Place, eventually, soon


class Desk:
    """An owner who changes agents, each change with its entry."""

    def __init__(self, app: App, owner: Caller) -> None:
        self.plain, self.owner = app, owner
        self.origin = Origin(owner.organization_id, owner.user_id, None, "update_agent", reason="Because")

    @property
    def who(self) -> tuple[App, Caller]:
        return self.plain, self.owner

    @property
    def app(self) -> App:
        return audited_app(self.plain, self.origin, Audited(AGENT))

    async def entries(self) -> list[AuditEntry]:
        found = await page_of_audit_log(
            self.plain, self.owner, self.owner.organization_id, AuditFilter(), 1000
        )
        return list(found.data)

    async def count(self, table: str) -> int:
        found = await self.plain.database.read(lambda tx: tx.one(f"SELECT COUNT(*) FROM {table}"))
        return 0 if found is None else int(found[0])


@pytest_asyncio.fixture
async def audit_desk(place: Place, tmp_path: Path) -> AsyncIterator[Desk]:
    settings = Settings(
        data=str(tmp_path / "data"), database_url=place.url if place.kind == "postgres" else ""
    )
    async with open_parts(settings) as parts:
        yield Desk(parts.app, await bootstrap(parts.app))


class Failing:
    """A database whose transactions fail after all of their statements."""

    def __init__(self, inner: AuditedDatabase) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    async def write(self, body: Body[T], *, single: bool = False) -> T:
        async def failing(tx: Tx) -> T:
            await body(tx)
            raise OSError("at the very end")

        return await self._inner.write(failing)


async def test_a_change_that_fails_leaves_no_entry_and_no_revision(audit_desk: Desk) -> None:
    agent, _ = await create_agent(audit_desk.app, audit_desk.owner, CreateAgent("one", "x"))
    before = await audit_desk.entries(), await audit_desk.count("revisions")
    assert [each.action for each in before[0]] == ["agent.created"]
    database = audit_desk.app.database
    assert isinstance(database, AuditedDatabase)
    failing: App = replace(audit_desk.plain, database=Failing(database))
    with pytest.raises(OSError, match="very end"):
        await change_agent(failing, audit_desk.owner, agent.id, UpdateAgent(description="Two"))
    assert (await audit_desk.entries(), await audit_desk.count("revisions")) == before


async def test_an_entry_that_cannot_be_written_undoes_the_change(
    audit_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = await create_agent(audit_desk.app, audit_desk.owner, CreateAgent("one", "x"))

    async def broken(*_: object) -> None:
        raise OSError("no entry")

    monkeypatch.setattr("perdure.store.audited.add_entries", broken)
    with pytest.raises(OSError, match="no entry"):
        await change_agent(audit_desk.app, audit_desk.owner, agent.id, UpdateAgent(description="Two"))
    row = await audit_desk.plain.database.read(lambda tx: tx.one("SELECT description FROM agents"))
    assert row is not None
    assert row[0] is None


async def test_what_another_kind_of_entity_changes_leaves_no_entry(audit_desk: Desk) -> None:
    app = audited_app(audit_desk.plain, audit_desk.origin, Audited(SESSION))
    await create_agent(app, audit_desk.owner, CreateAgent("one", "x"))
    assert await audit_desk.entries() == []
    app = audited_app(audit_desk.plain, audit_desk.origin, Audited(MEMBER, only=("deleted",)))
    await add_member(app, audit_desk.owner, AddUser("eve@example.com", "Eve", "member"))
    assert await audit_desk.entries() == []
    await create_agent(audit_desk.plain, audit_desk.owner, CreateAgent("two", "x"))
    assert await audit_desk.entries() == []


async def test_entries_are_deleted_by_age_only_and_the_history_stays(audit_desk: Desk) -> None:
    for name in ("one", "two", "three"):
        await create_agent(audit_desk.app, audit_desk.owner, CreateAgent(name, "x"))
    newest, middle, _ = await audit_desk.entries()
    found = await audit_desk.plain.database.read(
        lambda tx: tx.one("SELECT created_at FROM audit_entries WHERE id = ?", middle.id)
    )
    assert found is not None
    org_id, before = audit_desk.owner.organization_id, int(found[0])

    async def delete(tx: Tx, org: OrgId = org_id) -> int:
        return await delete_audit_entries_before(tx, org, before)

    assert await audit_desk.plain.database.write(lambda tx: delete(tx, OrgId("org_" + "0" * 32))) == 0
    assert await audit_desk.plain.database.write(delete) == 1
    assert await audit_desk.plain.database.write(delete) == 0
    assert await audit_desk.entries() == [newest, middle]
    assert await audit_desk.count("revisions") == 3
    assert await audit_desk.count("audit_gate") == 0
    for statement in (
        "DELETE FROM audit_entries",
        "UPDATE audit_entries SET reason = 'x'",
        "DELETE FROM revisions",
    ):
        with pytest.raises(Exception, match="append-only"):
            await audit_desk.plain.database.write(lambda tx, sql=statement: tx.run(sql))  # type: ignore[misc]
    assert len(await audit_desk.entries()) == 2


async def test_without_the_master_key_entries_have_no_digests_but_are_there(audit_desk: Desk) -> None:
    await audit_desk.plain.database.write(lambda tx: tx.run("DELETE FROM org_keys"))
    audit_desk.plain.vault._data_keys.clear()
    body = CreateAgent("one", "x", description="https://a.invalid/?key=abc")
    await create_agent(audit_desk.app, audit_desk.owner, body)
    (entry,) = await audit_desk.entries()
    assert entry.after is not None
    assert entry.after["description"] == "https://a.invalid/?hmac:unknown"


@pytest.mark.parametrize("files", [3, MAX_ROWS + 20])
async def test_an_entry_counts_all_that_a_request_has_changed(audit_desk: Desk, files: int) -> None:
    owner, at = audit_desk.owner, OfSession((await create_session(*audit_desk.who, CreateSession())).id)
    for number in range(files):
        await create_path(*audit_desk.who, at, f"/from/{number}", CreateFile(content=str(number)))
    app = audited_app(audit_desk.plain, audit_desk.origin, Audited(FILE))
    await copy_path(app, owner, at, "/from", "/copy")
    await move_path(app, owner, at, "/from", "/to")
    await delete_path(app, owner, at, "/to", recursive=True, if_match=None)
    found = [each.rows_changed for each in reversed(await audit_desk.entries())]
    assert found == [files + 1, 2 * (files + 1), files + 1]  # what is moved goes, and comes


async def test_changes_of_a_session_at_once_are_all_made_each_with_its_entry(audit_desk: Desk) -> None:
    app = audited_app(audit_desk.plain, audit_desk.origin, Audited(SESSION))
    session = await create_session(audit_desk.plain, audit_desk.owner, CreateSession(title="0"))
    titles = [str(number) for number in range(1, 9)]
    changed = await asyncio.gather(
        *(change_session(app, audit_desk.owner, session.id, UpdateSession(title=each)) for each in titles)
    )
    assert [each.title for each in changed] == titles
    entries = await audit_desk.entries()
    moves = {each.before["title"]: each.after["title"] for each in entries if each.before and each.after}
    title, seen = "0", list[object]()
    while title in moves:
        title = str(moves[title])
        seen.append(title)
    assert sorted(map(str, seen)) == titles
    assert title == (await read_session(audit_desk.plain, audit_desk.owner, session.id)).title
    (maker,) = {each.actor for each in entries}
    assert (maker.id, maker.name is not None) == (audit_desk.owner.user_id, True)
    await change_session(app, audit_desk.owner, session.id, UpdateSession(title=title))
    assert len(await audit_desk.entries()) == len(titles)  # it changed nothing


async def test_the_entry_of_a_session_that_only_its_owner_reads_shows_no_values(audit_desk: Desk) -> None:
    app = audited_app(audit_desk.plain, audit_desk.origin, Audited(SESSION))
    session = await create_session(audit_desk.plain, audit_desk.owner, CreateSession(title="open"))
    row = await audit_desk.plain.database.read(lambda tx: look_session(tx, session.id))
    assert row is not None
    await audit_desk.plain.database.write(lambda tx: close_to_others(tx, row, 1))
    await change_session(app, audit_desk.owner, session.id, UpdateSession(title="closed", tags=("red",)))
    (entry,) = await audit_desk.entries()
    assert entry.entity.name is None
    assert "closed" not in str(entry)
    assert set(entry.after or ()) == {"title", "tags"}


async def test_what_was_denied_in_a_session_that_only_its_owner_reads_has_no_name(audit_desk: Desk) -> None:
    session = await create_session(audit_desk.plain, audit_desk.owner, CreateSession())
    row = await audit_desk.plain.database.read(lambda tx: look_session(tx, session.id))
    assert row is not None
    denied = Denied(WEBHOOK, "webhook.created", session.id, "https://closed.invalid", session.id)
    await note_denied(audit_desk.plain, audit_desk.origin, denied)
    await audit_desk.plain.database.write(lambda tx: close_to_others(tx, row, 1))
    await note_denied(audit_desk.plain, audit_desk.origin, denied)
    found = await audit_desk.entries()
    assert [each.entity.name for each in found] == [None, "https://closed.invalid"]
    assert {each.session_id for each in found} == {session.id}


async def test_what_was_denied_while_its_session_is_removed_is_no_entry_of_it(
    audit_desk: Desk, place: Place
) -> None:
    if place.kind == "sqlite":
        return  # one transaction writes at a time
    session = await create_session(audit_desk.plain, audit_desk.owner, CreateSession())
    database, locked, goes_on = audit_desk.plain.database, asyncio.Event(), asyncio.Event()

    async def removing(tx: Tx) -> None:
        await tx.one("SELECT 1 FROM sessions WHERE id = ? FOR UPDATE", session.id)
        locked.set()
        await goes_on.wait()
        await tx.run("DELETE FROM sessions WHERE id = ?", session.id)

    async def waiting() -> bool:
        sql = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return await database.read(lambda tx: tx.one(sql)) is not None

    denied = Denied(SESSION, "session.held", session.id, None, session.id)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(database.write(removing))
        await soon(locked.wait())
        tasks.create_task(note_denied(audit_desk.plain, audit_desk.origin, denied))
        await eventually(waiting)
        goes_on.set()
    (entry,) = await audit_desk.entries()
    assert entry.session_id is None


async def test_a_change_of_a_sub_agents_session_leaves_no_entry(audit_desk: Desk) -> None:
    app = audited_app(audit_desk.plain, audit_desk.origin, Audited(SESSION))
    session = await create_session(audit_desk.plain, audit_desk.owner, CreateSession(title="0"))
    await audit_desk.plain.database.write(
        lambda tx: tx.run("UPDATE sessions SET root_session_id = 'session_x' WHERE id = ?", session.id)
    )
    changed = await change_session(app, audit_desk.owner, session.id, UpdateSession(title="1"))
    assert changed.title == "1"
    assert await audit_desk.entries() == []
