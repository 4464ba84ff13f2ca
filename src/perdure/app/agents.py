"""Agents and harnesses: the layers under a session."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from perdure.app.services import App
from perdure.app.sessions import check_model, check_tools, find_harness
from perdure.domain.accounts import Caller
from perdure.domain.agents import (
    Agent,
    AgentConfig,
    CapabilityInfo,
    CreateAgent,
    CreateHarness,
    Harness,
    HarnessConfig,
    UpdateAgent,
)
from perdure.domain.errors import Conflict, InvalidInput, NotFound
from perdure.domain.ids import check_id, is_id
from perdure.domain.links import AllowedAction, Page
from perdure.domain.sessions import clean_tags
from perdure.domain.times import Micros, maybe_rfc3339, to_rfc3339
from perdure.store.agents import (
    MAX_PARENTS,
    AgentRow,
    HarnessRow,
    add_agent,
    add_harness,
    agent_by_name,
    get_agent,
    get_harness,
    harness_by_name,
    harness_chain,
    list_agents,
    list_harnesses,
    session_counts,
    update_agent,
)
from perdure.store.database import Tx
from perdure.store.rows import to_json


def to_agent(row: AgentRow, *, sessions: int | None = None) -> Agent:
    """The row as clients see it; `sessions` is shown where it was counted."""
    config, url = row.config_struct(), f"/v1/agents/{row.id}"
    actions = [
        AllowedAction("self", "GET", url, "get_agent"),
        AllowedAction("update", "PATCH", url, "update_agent"),
        AllowedAction("delete", "DELETE", url, "delete_agent"),
    ]
    return Agent(
        id=row.id, name=row.name, system_prompt=row.system_prompt, harness_id=row.harness_id, status=row.status,
        created_at=to_rfc3339(row.created_at), updated_at=to_rfc3339(row.updated_at), self_url=url, view_url=url, ui_link=url,
        capabilities=config.capabilities, tools=config.tools, tags=row.tag_list(), display_name=row.display_name,
        description=row.description, default_model_id=row.default_model_id, initial_files=config.initial_files,
        max_iterations=config.max_iterations, parallel_tool_calls=config.parallel_tool_calls,
        network_access=config.network_access, archived_at=maybe_rfc3339(row.archived_at),
        session_count=UNSET if sessions is None else sessions, app_count=UNSET if sessions is None else 0,
        allowed_actions=tuple(actions),
    )  # fmt: skip


async def create_agent(app: App, caller: Caller, body: CreateAgent, agent_id: str | None = None) -> tuple[Agent, bool]:
    """Make an agent, or update the one with this id or name; whether it is new."""
    tags = clean_tags(body.tags)
    app.registry.check(body.capabilities)
    check_tools(body.tools)
    wanted = agent_id or body.id
    if wanted is not None:
        check_id(wanted, "agent", "id")
    now = app.now()

    async def work(tx: Tx) -> tuple[Agent, bool]:
        org_id = caller.organization_id
        harness = await _harness_for(tx, org_id, body.harness_id, body.harness_name)
        if body.default_model_id is not None:
            await check_model(tx, org_id, body.default_model_id, "default_model_id")
        old = await _existing(tx, org_id, wanted, body.name)
        config = AgentConfig(
            body.capabilities, body.tools, body.initial_files, body.max_iterations, body.parallel_tool_calls, body.network_access
        )
        row = AgentRow(
            old.id if old else wanted or app.new_id("agent"), org_id, body.name, body.display_name, body.description,
            body.system_prompt, harness.id, body.default_model_id, to_json(tags), to_json(config), "active",
            old.created_at if old else now, max(now, old.updated_at + 1) if old else now, None,
        )  # fmt: skip
        if old is None:
            await add_agent(tx, row)
        else:
            names = [name for name in AgentRow.__struct_fields__ if name not in ("id", "org_id", "created_at")]
            await update_agent(tx, org_id, old.id, {name: getattr(row, name) for name in names})
        return to_agent(row), old is None

    return await app.database.write(work)


async def _existing(tx: Tx, org_id: str, agent_id: str | None, name: str) -> AgentRow | None:
    by_name = await agent_by_name(tx, org_id, name)
    if agent_id is None:
        return by_name
    found = await tx.one("SELECT org_id FROM agents WHERE id = ?", agent_id)
    if found is None:
        if by_name is not None:
            raise Conflict(f"another agent is named {name!r}", code="name_taken")
        return None
    if found[0] != org_id:
        raise NotFound("agent")
    if by_name is not None and by_name.id != agent_id:
        raise Conflict(f"another agent is named {name!r}", code="name_taken")
    return await get_agent(tx, org_id, agent_id)


async def _harness_for(tx: Tx, org_id: str, harness_id: str | None, name: str | None) -> HarnessRow:
    if harness_id is not None and name is not None:
        raise InvalidInput("give `harness_id` or `harness_name`, not both", field="harness_id")
    return await find_harness(tx, org_id, harness_id, name)


async def find_agent(tx: Tx, org_id: str, ref: str) -> AgentRow:
    """The agent of this id or name, archived ones by id only. Raises NotFound."""
    if is_id(ref, "agent"):
        row = await get_agent(tx, org_id, ref)
    else:
        by_name = await agent_by_name(tx, org_id, ref)
        if by_name is None:
            raise NotFound("agent")
        row = by_name
    if row.status == "deleted":
        raise NotFound("agent")
    return row


async def read_agent(app: App, caller: Caller, ref: str) -> Agent:
    """One agent, by id or name, with how many sessions it has."""

    async def work(tx: Tx) -> Agent:
        row = await find_agent(tx, caller.organization_id, ref)
        counts = await session_counts(tx, row.org_id, "agent_id", (row.id,))
        return to_agent(row, sessions=counts.get(row.id, 0))

    return await app.database.read(work)


async def page_of_agents(app: App, caller: Caller, search: str | None, archived: bool, offset: int, limit: int) -> Page[Agent]:
    """A page of agents, newest first."""

    async def work(tx: Tx) -> Page[Agent]:
        rows, total = await list_agents(tx, caller.organization_id, search, archived, offset, limit)
        counts = await session_counts(tx, caller.organization_id, "agent_id", tuple(row.id for row in rows))
        return Page(tuple(to_agent(row, sessions=counts.get(row.id, 0)) for row in rows), total, offset, limit)

    return await app.database.read(work)


async def change_agent(app: App, caller: Caller, ref: str, body: UpdateAgent) -> Agent:
    """Change what the caller named, and nothing else."""
    if body.capabilities is not UNSET:
        app.registry.check(body.capabilities)
    if body.tools is not UNSET:
        check_tools(body.tools)
    now = app.now()

    async def work(tx: Tx) -> Agent:
        row = await find_agent(tx, caller.organization_id, ref)
        changes = await _agent_changes(tx, row, body, now)
        if not changes:
            return to_agent(row)
        changes["updated_at"] = max(now, row.updated_at + 1)
        await update_agent(tx, row.org_id, row.id, changes)
        return to_agent(msgspec.structs.replace(row, **changes))

    return await app.database.write(work)


async def _agent_changes(tx: Tx, row: AgentRow, body: UpdateAgent, now: Micros) -> dict[str, Any]:
    given = {name: getattr(body, name) for name in body.__struct_fields__ if getattr(body, name) is not UNSET}
    plain = ("system_prompt", "display_name", "description", "default_model_id")
    changes = {name: given[name] for name in plain if name in given}
    if given.get("default_model_id") is not None:
        await check_model(tx, row.org_id, given["default_model_id"], "default_model_id")
    if "name" in given and given["name"] != row.name:
        if await agent_by_name(tx, row.org_id, given["name"]) is not None:
            raise Conflict(f"another agent is named {given['name']!r}", code="name_taken")
        changes["name"] = given["name"]
    if "harness_id" in given or "harness_name" in given:
        harness = await _harness_for(tx, row.org_id, given.get("harness_id"), given.get("harness_name"))
        changes["harness_id"] = harness.id
    if "tags" in given:
        changes["tags"] = to_json(clean_tags(given["tags"]))
    parts = {name: given[name] for name in AgentConfig.__struct_fields__ if name in given}
    if parts:
        changes["config"] = to_json(msgspec.structs.replace(row.config_struct(), **parts))
    if "status" in given and given["status"] != row.status:
        if given["status"] == "active" and await agent_by_name(tx, row.org_id, changes.get("name", row.name)) is not None:
            raise Conflict("another agent has taken this name", code="name_taken")
        changes |= {"status": given["status"], "archived_at": now if given["status"] == "archived" else None}
    return changes


async def archive_agent(app: App, caller: Caller, ref: str) -> None:
    """Hide an agent from lists and keep it from starting sessions; those it has stop, in words, at their next step."""
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await find_agent(tx, caller.organization_id, ref)
        if row.status != "archived":
            await update_agent(
                tx, row.org_id, row.id, {"status": "archived", "archived_at": now, "updated_at": max(now, row.updated_at + 1)}
            )

    await app.database.write(work)


def to_harness(row: HarnessRow, *, sessions: int | None = None) -> Harness:
    """The row as clients see it."""
    config, url = row.config_struct(), f"/v1/harnesses/{row.id}"
    return Harness(
        id=row.id, name=row.name, status=row.status, is_built_in=bool(row.is_built_in), created_at=to_rfc3339(row.created_at),
        updated_at=to_rfc3339(row.updated_at), self_url=url, view_url=url, ui_link=url, capabilities=config.capabilities,
        tags=row.tag_list(), system_prompt=row.system_prompt, display_name=row.display_name, description=row.description,
        parent_harness_id=row.parent_harness_id, default_model_id=row.default_model_id, initial_files=config.initial_files,
        network_access=config.network_access, parallel_tool_calls=config.parallel_tool_calls,
        embedder_metadata=config.embedder_metadata, archived_at=maybe_rfc3339(row.archived_at),
        session_count=UNSET if sessions is None else sessions, app_count=UNSET if sessions is None else 0,
        allowed_actions=(AllowedAction("self", "GET", url, "get_harness"),),
    )  # fmt: skip


async def find_any_harness(tx: Tx, org_id: str, ref: str) -> HarnessRow:
    """The harness of this id or name. Raises NotFound."""
    if is_id(ref, "harness"):
        return await get_harness(tx, org_id, ref)
    found = await harness_by_name(tx, org_id, ref)
    if found is None:
        raise NotFound("harness")
    return found


async def create_harness(app: App, caller: Caller, body: CreateHarness) -> Harness:
    """Make a harness."""
    tags = clean_tags(body.tags)
    app.registry.check(body.capabilities)
    now = app.now()

    async def work(tx: Tx) -> Harness:
        org_id = caller.organization_id
        if await harness_by_name(tx, org_id, body.name) is not None:
            raise Conflict(f"another harness is named {body.name!r}", code="name_taken")
        if body.parent_harness_id is not None:
            chain = await harness_chain(tx, org_id, check_id(body.parent_harness_id, "harness", "parent_harness_id"))
            if len(chain) >= MAX_PARENTS:
                raise InvalidInput(f"harnesses inherit at most {MAX_PARENTS} deep", field="parent_harness_id")
        if body.default_model_id is not None:
            await check_model(tx, org_id, body.default_model_id, "default_model_id")
        config = HarnessConfig(body.capabilities, body.initial_files, body.network_access, None, body.embedder_metadata)
        row = HarnessRow(
            app.new_id("harness"), org_id, body.name, body.display_name, body.description, body.system_prompt,
            body.parent_harness_id, body.default_model_id, to_json(tags), to_json(config), 0, "active", now, now, None,
        )  # fmt: skip
        await add_harness(tx, row)
        return to_harness(row)

    return await app.database.write(work)


async def read_harness(app: App, caller: Caller, ref: str) -> Harness:
    """One harness, by id or name."""

    async def work(tx: Tx) -> Harness:
        row = await find_any_harness(tx, caller.organization_id, ref)
        counts = await session_counts(tx, row.org_id, "harness_id", (row.id,))
        return to_harness(row, sessions=counts.get(row.id, 0))

    return await app.database.read(work)


async def all_harnesses(app: App, caller: Caller, search: str | None, archived: bool) -> list[Harness]:
    """Every harness, built-in ones first."""

    async def work(tx: Tx) -> list[Harness]:
        rows = await list_harnesses(tx, caller.organization_id, search, archived)
        counts = await session_counts(tx, caller.organization_id, "harness_id", tuple(row.id for row in rows))
        return [to_harness(row, sessions=counts.get(row.id, 0)) for row in rows]

    return await app.database.read(work)


def all_capabilities(app: App, search: str | None) -> list[CapabilityInfo]:
    """What this server can do, by id."""
    found = [_capability_info(app, capability.id) for capability in app.registry.all()]
    wanted = (search or "").lower()
    return [info for info in found if wanted in f"{info.id} {info.name} {info.description}".lower()]


def read_capability(app: App, ref: str) -> CapabilityInfo:
    """One capability, by id or alias. Raises NotFound."""
    if app.registry.get(ref) is None:
        raise NotFound("capability")
    return _capability_info(app, ref)


def _capability_info(app: App, ref: str) -> CapabilityInfo:
    capability = app.registry.get(ref)
    if capability is None:
        raise NotFound("capability")
    url = f"/v1/capabilities/{capability.id}"
    tools = tuple(
        {"name": tool.name, "display_name": tool.display_name, "description": tool.description, "parameters": tool.parameters}
        for tool in capability.tools(None)
    )
    return CapabilityInfo(
        id=capability.id, name=capability.name, description=capability.description, status="available", self_url=url,
        view_url=url, ui_link=url, features=capability.features, dependencies=capability.dependencies,
        category=capability.category, aliases=capability.aliases, config_schema=capability.config_schema,
        system_prompt=capability.prompt(None), tool_definitions=tools,
    )  # fmt: skip
