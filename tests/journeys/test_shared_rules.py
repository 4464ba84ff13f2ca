"""Rules hold for a session's own tools and for HTTP, also at the same time, on both databases."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from msgspec import Struct

from perdure.api.kernel.access import Access
from perdure.api.kernel.http import Api
from perdure.app.accounts import bootstrap
from perdure.capabilities.port import ToolContext
from perdure.domain.accounts import Caller
from perdure.domain.databases import MAX_DATABASES
from perdure.domain.errors import PerdureError
from perdure.domain.ids import SessionId, ToolCallId, TurnId, WorkspaceId
from perdure.domain.redaction import Redactor
from perdure.domain.schedules import MAX_ACTIVE, MAX_KEPT
from perdure.domain.storage import MAX_KEYS, MAX_SECRETS, MAX_SECRETS_SIZE
from perdure.routing import ThisProcess, all_routes
from perdure.settings import Settings
from perdure.store.database import Tx
from perdure.store.storage import secret_sizes, set_value
from perdure.store.workspaces import get_workspace
from perdure.wiring import Parts, open_parts
from tests.talk import Json

pytestmark = pytest.mark.asyncio(loop_scope="module")

YEARLY = "0 0 1 1 *"
ROOM = 1_000_000
"""The limit for all files of a session here, in bytes."""


class Doors:
    """A session, accessed through its own tools and through the routes."""

    def __init__(self, parts: Parts, owner: Caller, http: httpx.AsyncClient, session: Json) -> None:
        self.parts, self.owner, self.http = parts, owner, http
        self.id = SessionId(session["id"])
        self.workspace_id = WorkspaceId(session["workspace_id"])

    def path(self, rest: str = "") -> str:
        return f"/v1/sessions/{self.id}{rest}"

    async def tool(self, name: str, **arguments: Any) -> Any:
        """The value that a tool of the session returns, or the error that its model would see."""
        found = self.parts.app.registry.tool(name)
        assert found is not None
        context = ToolContext(
            self.owner.organization_id,
            self.id,
            self.workspace_id,
            TurnId(""),
            ToolCallId(""),
            self.parts.app.now,
            lambda text: None,
            lambda stream, text: None,
            Redactor({}),
        )
        try:
            return (await found[1].run(context, arguments)).value
        except PerdureError as error:
            return error

    async def post(self, rest: str, body: Json) -> httpx.Response:
        return await self.http.post(self.path(rest), json=body)

    async def listed(self, rest: str) -> list[Any]:
        answer = await self.http.get(self.path(rest))
        assert answer.status_code == 200, answer.text
        found: list[Any] = answer.json()["data"]
        return found

    async def shared(self) -> Doors:
        """Another session in the same workspace."""
        answer = await self.http.post("/v1/sessions", json={"workspace_id": self.workspace_id})
        assert answer.status_code == 201, answer.text
        return Doors(self.parts, self.owner, self.http, answer.json())

    async def left(self) -> dict[str, int]:
        """The number of the session's rows by table; tables without rows are left out."""
        tables = ("key_values", "secrets", "sql_databases", "schedules", "shell_states", "standing_approvals")
        counts = {table: await self._count(table, "session_id", self.id) for table in tables}
        counts["files"] = await self._count("files", "workspace_id", self.workspace_id)
        return {table: count for table, count in counts.items() if count}

    async def _count(self, table: str, column: str, value: str) -> int:
        sql = f"SELECT COUNT(*) FROM {table} WHERE {column} = ?"
        found = await self.parts.database.read(lambda tx: tx.one(sql, value))
        assert found is not None
        return int(found[0])


class House(Struct, frozen=True):
    """A server's parts in this process, and a client of its routes."""

    parts: Parts
    owner: Caller
    http: httpx.AsyncClient


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgres"])
async def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """One house on each of the databases in turn. Tests share it, because each needs only its own session."""
    url, server = "", None
    if request.param == "postgres":
        server = request.getfixturevalue("postgres_server")
        url = await server.create_database()
    folder = tmp_path_factory.mktemp("house")
    settings = Settings(data=str(folder), database_url=url, max_session_file_bytes=ROOM)
    async with open_parts(settings) as parts:
        owner = await bootstrap(parts.app)

        async def as_owner(headers: dict[bytes, bytes], anywhere: bool) -> Caller:
            return owner

        api = Api(parts.app, all_routes(settings, ThisProcess()), as_owner, Access(parts.app.metrics))
        transport = httpx.ASGITransport(app=api)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            yield House(parts, owner, http)
    if server is not None:
        await server.drop_database(url)


@pytest_asyncio.fixture(loop_scope="module")
async def doors(house: House) -> Doors:
    """A new session."""
    answer = await house.http.post("/v1/sessions", json={})
    assert answer.status_code == 201, answer.text
    return Doors(house.parts, house.owner, house.http, answer.json())


async def at_once(*calls: Awaitable[Any]) -> list[Any]:
    """Run all calls concurrently; returns their results."""
    async with asyncio.timeout(60):
        return await asyncio.gather(*calls)


def done(results: list[Any]) -> int:
    """The number of tools and requests that succeeded."""
    return sum(
        each.is_success if isinstance(each, httpx.Response) else not isinstance(each, PerdureError)
        for each in results
    )


def told(result: Any) -> str:
    """The error message of a refused call or request."""
    if isinstance(result, httpx.Response):
        assert result.is_client_error, result.text
        return str(result.json()["detail"])
    assert isinstance(result, PerdureError), result
    return result.message


# --- schedules --------------------------------------------------------------


async def test_tools_and_requests_together_create_at_most_five_active_schedules(doors: Doors) -> None:
    body = {"message": "m", "cron": YEARLY}
    results = await at_once(
        *(doors.tool("create_schedule", **body) for _ in range(10)),
        *(doors.post("/schedules", body) for _ in range(10)),
    )
    assert done(results) == MAX_ACTIVE
    assert len(await doors.listed("/schedules")) == MAX_ACTIVE


async def test_enabling_and_creating_schedules_at_once_keeps_to_the_limit(doors: Doors) -> None:
    off = {"message": "m", "cron": YEARLY, "enabled": False}
    known = [(await doors.post("/schedules", off)).json()["id"] for _ in range(6)]
    results = await at_once(
        *(doors.http.patch(doors.path(f"/schedules/{each}"), json={"enabled": True}) for each in known),
        *(doors.tool("create_schedule", message="m", cron=YEARLY) for _ in range(6)),
    )
    assert done(results) == MAX_ACTIVE
    assert sum(each["enabled"] for each in await doors.listed("/schedules")) == MAX_ACTIVE


async def test_a_session_keeps_at_most_a_hundred_schedules(doors: Doors) -> None:
    off = {"message": "m", "cron": YEARLY, "enabled": False}
    await at_once(*(doors.post("/schedules", off) for _ in range(MAX_KEPT - 2)))
    results = await at_once(
        *(doors.tool("create_schedule", message="m", cron=YEARLY) for _ in range(4)),
        *(doors.post("/schedules", off) for _ in range(4)),
    )
    assert done(results) == 2
    assert len(await doors.listed("/schedules")) == MAX_KEPT


# --- key-values and secrets -------------------------------------------------


async def fill_values(doors: Doors, count: int) -> None:
    async def work(tx: Tx) -> None:
        for n in range(count):
            await set_value(tx, doors.owner.organization_id, doors.id, f"k{n}", "v", 1)

    await doors.parts.database.write(work)


async def test_parallel_calls_do_not_exceed_the_limit_of_keys(doors: Doors) -> None:
    await fill_values(doors, MAX_KEYS - 3)
    results = await at_once(
        *(doors.tool("kv_store", operation="set", key=f"more{n}", value="v") for n in range(10))
    )
    assert done(results) == 3
    assert len(await doors.listed("/storage/keys")) == MAX_KEYS


async def put_secret(doors: Doors, name: str, value: str) -> httpx.Response:
    return await doors.http.put(doors.path("/storage/secrets"), json={"secrets": {name: value}})


async def test_tools_and_requests_together_store_at_most_a_hundred_secrets(doors: Doors) -> None:
    many = {f"s{n}": "v" for n in range(MAX_SECRETS - 3)}
    assert (await doors.http.put(doors.path("/storage/secrets"), json={"secrets": many})).is_success
    results = await at_once(
        *(doors.tool("secret_store", operation="set", key=f"tool{n}", value="v") for n in range(5)),
        *(put_secret(doors, f"http{n}", "v") for n in range(5)),
    )
    assert done(results) == 3
    assert len(await doors.listed("/storage/secrets")) == MAX_SECRETS


async def test_secrets_of_tools_and_requests_share_one_size_limit(doors: Doors) -> None:
    value = "x" * 30_000
    results = await at_once(
        *(doors.tool("secret_store", operation="set", key=f"tool{n}", value=value) for n in range(7)),
        *(put_secret(doors, f"http{n}", value) for n in range(7)),
    )
    assert done(results) == MAX_SECRETS_SIZE // len(value)
    sizes = await doors.parts.database.read(lambda tx: secret_sizes(tx, doors.id))
    assert len(sizes) == MAX_SECRETS_SIZE // len(value)


# --- SQL databases ----------------------------------------------------------


async def test_statements_and_requests_together_create_at_most_ten_databases(doors: Doors) -> None:
    await at_once(*(doors.post("/databases", {"name": f"d{n}"}) for n in range(MAX_DATABASES - 3)))
    results = await at_once(
        *(doors.tool("sql_execute", sql="create table t (x)", database=f"tool{n}") for n in range(4)),
        *(doors.post("/databases", {"name": f"http{n}"}) for n in range(4)),
    )
    assert done(results) == 3
    assert len(await doors.listed("/databases")) == MAX_DATABASES


async def test_parallel_statements_on_a_database_lose_no_change(doors: Doors) -> None:
    assert not isinstance(await doors.tool("sql_execute", sql="create table t (x)"), PerdureError)
    results = await at_once(*(doors.tool("sql_execute", sql=f"insert into t values ({n})") for n in range(6)))
    count = await doors.tool("sql_query", sql="select count(*) from t")
    assert count["rows"] == [[done(results)]]


async def test_a_first_statement_and_a_request_create_the_same_database_once(doors: Doors) -> None:
    statement, answer = await at_once(
        doors.tool("sql_execute", sql="create table if not exists t (x)", database="same"),
        doors.post("/databases", {"name": "same"}),
    )
    assert not isinstance(statement, PerdureError)
    assert answer.status_code in (201, 409)
    assert [each["name"] for each in await doors.listed("/databases")] == ["same"]
    assert (await doors.tool("sql_query", sql="select count(*) from t", database="same"))["rows"] == [[0]]


# --- files ------------------------------------------------------------------


async def test_files_of_tools_shell_and_requests_share_one_size_limit(doors: Doors) -> None:
    text = "x" * 300_000
    results = await at_once(
        *(doors.tool("write_file", path=f"/tool{n}", content=text) for n in range(3)),
        *(doors.post(f"/fs/http{n}", {"content": text}) for n in range(3)),
        doors.tool("bash", command="head -c 300000 /dev/zero > /workspace/shell || true"),
    )
    files = await doors.listed("/fs")
    space = await doors.parts.database.read(
        lambda tx: get_workspace(tx, doors.owner.organization_id, doors.workspace_id)
    )
    assert sum(each["size_bytes"] for each in files) == space.size_bytes == ROOM // len(text) * len(text)
    assert len(files) == space.file_count == ROOM // len(text)
    assert done(results) >= len(files)  # a command whose file is not saved still succeeds, with a note


async def test_edits_and_requests_on_one_file_lose_no_change(doors: Doors) -> None:
    await doors.post("/fs/list", {"content": "end"})

    async def put(n: int) -> httpx.Response:
        while True:
            file = (await doors.http.get(doors.path("/fs/list"))).json()
            body = {"content": file["content"].replace("end", f"http{n}\nend"), "expected_hash": file["hash"]}
            answer = await doors.http.put(doors.path("/fs/list"), json=body)
            if answer.status_code != 412:
                return answer

    results = await at_once(
        *(doors.tool("edit_file", path="/list", old_text="end", new_text=f"tool{n}\nend") for n in range(4)),
        *(put(n) for n in range(4)),
    )
    lines = (await doors.http.get(doors.path("/fs/list"))).json()["content"].split("\n")
    assert len(lines) == len(set(lines)) == done(results) + 1


async def test_nothing_is_written_to_a_workspace_once_it_is_archived(doors: Doors) -> None:
    made = (await doors.http.post("/v1/workspaces", json={"name": f"Shared by {doors.id}"})).json()
    answer = await doors.http.post("/v1/sessions", json={"workspace_id": made["id"]})
    inside = Doors(doors.parts, doors.owner, doors.http, answer.json())
    archived, *results = await at_once(
        doors.http.delete(f"/v1/workspaces/{made['id']}"),
        *(inside.tool("write_file", path=f"/tool{n}", content="x") for n in range(5)),
        *(inside.post(f"/fs/http{n}", {"content": "x"}) for n in range(5)),
    )
    assert archived.is_success
    files = await inside.left()
    assert files.get("files", 0) == done(results)
    late = [await inside.tool("write_file", path="/late", content="x"), await inside.post("/fs/late", {})]
    assert told(late[0]) == told(late[1])
    notes = (await inside.tool("bash", command="echo > /workspace/late"))["notes"]
    assert told(late[0]) in notes[0]
    assert await inside.left() == files | {"shell_states": 1}


# --- the same errors ---------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"message": "m", "cron": "nonsense"},
        {"message": "m", "at": "2001-01-01T00:00:00Z"},
        {"message": "m", "at": "soon"},
        {"message": "m"},
        {"message": "m", "cron": YEARLY, "timezone": "Mars/Olympus"},
    ],
)
async def test_a_schedule_that_can_never_fire_gets_the_same_error_from_both(doors: Doors, body: Json) -> None:
    assert told(await doors.tool("create_schedule", **body)) == told(await doors.post("/schedules", body))


async def test_a_protected_file_gets_the_same_error_from_both(doors: Doors) -> None:
    await doors.post("/fs/kept", {"content": "x", "is_readonly": True})
    await doors.post("/fs/folder", {"is_directory": True})
    for path, text in (("/kept", "y"), ("/folder", "y"), ("/kept/below", "y"), ("/x", "y" * (ROOM + 1))):
        by_tool = await doors.tool("write_file", path=path, content=text)
        by_route = await doors.http.put(doors.path(f"/fs{path}"), json={"content": text})
        if by_route.status_code == 404:  # PUT changes an existing file, POST creates a new one
            by_route = await doors.post(f"/fs{path}", {"content": text})
        assert told(by_tool) == told(by_route), path
    assert told(await doors.tool("delete_file", path="/kept")) == told(
        await doors.http.delete(doors.path("/fs/kept"))
    )


async def test_a_name_or_value_that_http_refuses_is_refused_by_the_tool_too(doors: Doors) -> None:
    for name, value in (("a\x7fb", "v"), ("", "v"), ("line\n", "v"), ("name", ""), ("name", "v" * 40_000)):
        told(await doors.tool("secret_store", operation="set", key=name, value=value))
        told(await put_secret(doors, name, value))
    for name in ("Upper", "1st", "a" * 64, "line\n"):
        told(await doors.tool("sql_execute", sql="create table t (x)", database=name))
        told(await doors.post("/databases", {"name": name}))
    told(await doors.tool("kv_store", operation="set", key="a\x7fb", value="v"))
    told(await doors.tool("write_session_title", title="bell\a"))
    told(await doors.http.patch(doors.path(), json={"title": "bell\a"}))
    assert await doors.left() == {}


# --- deleted sessions ----------------------------------------------------

WRITES: dict[str, Json] = {
    "create_schedule": {"message": "m", "cron": YEARLY},
    "kv_store": {"operation": "set", "key": "k", "value": "v"},
    "secret_store": {"operation": "set", "key": "k", "value": "v"},
    "sql_execute": {"sql": "create table if not exists t (x)"},
    "write_file": {"path": "/new", "content": "x"},
    "edit_file": {"path": "/there", "old_text": "before", "new_text": "after"},
    "delete_file": {"path": "/there"},
    "bash": {"command": "X=1; echo x > /workspace/new; rm -f /workspace/there"},
    "write_session_title": {"title": "New"},
}


@pytest.mark.parametrize("name", WRITES)
async def test_a_tool_leaves_nothing_in_a_session_that_is_deleted(doors: Doors, name: str) -> None:
    await doors.post("/fs/there", {"content": "before"})
    assert (await doors.http.delete(doors.path())).status_code == 204
    # An edit reads first, and the session's files were deleted with it.
    missing = "no such file /there" if name == "edit_file" else "no such session"
    assert told(await doors.tool(name, **WRITES[name])) == missing
    assert await doors.left() == {}


@pytest.mark.parametrize("name", ["kv_store", "secret_store", "create_schedule", "sql_execute", "bash"])
async def test_a_session_deleted_while_its_tools_run_leaves_nothing(doors: Doors, name: str) -> None:
    await at_once(
        *(doors.tool(name, **WRITES[name]) for _ in range(3)),
        doors.http.delete(doors.path()),
        *(doors.tool(name, **WRITES[name]) for _ in range(3)),
    )
    assert await doors.left() == {}


@pytest.mark.parametrize("name", ["write_file", "edit_file", "delete_file", "bash"])
async def test_a_deleted_session_changes_no_file_that_others_share(doors: Doors, name: str) -> None:
    await doors.post("/fs/there", {"content": "before"})
    gone = await doors.shared()
    assert (await gone.http.delete(gone.path())).status_code == 204
    assert told(await gone.tool(name, **WRITES[name])) == "no such session"
    files = {each["path"]: each["size_bytes"] for each in await doors.listed("/fs")}
    assert files == {"/there": len("before")}
    assert json.loads((await doors.http.get(doors.path("/fs/there"))).text)["content"] == "before"
