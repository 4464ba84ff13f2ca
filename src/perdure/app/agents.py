"""Agents: create, read, list, change, copy, archive."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from perdure.app.agent_policies import check_policy_kept
from perdure.app.agent_snapshots import record_change
from perdure.app.context import App
from perdure.app.damaged import without_damage
from perdure.app.etags import check_match
from perdure.app.idempotency import Once, write_once
from perdure.app.initial_files import checked_file
from perdure.app.mcp_checks import check_inline
from perdure.app.output_schemas import changed_output, checked_output
from perdure.app.ref_checks import check_configs, check_refs
from perdure.app.searches import search
from perdure.app.sessions import check_fallbacks, check_model, find_harness
from perdure.app.stored_refs import stored_refs
from perdure.app.tool_definitions import check_tools
from perdure.app.variables import stored_variables
from perdure.domain.accounts import Caller
from perdure.domain.agent_versions import ChangeKind
from perdure.domain.agents import Agent, AgentConfig, CreateAgent, UpdateAgent
from perdure.domain.errors import Conflict, InvalidInput, NotFound
from perdure.domain.ids import (
    AgentId,
    AgentVersionId,
    ModelId,
    OrgId,
    check_id,
)
from perdure.domain.network import check_network
from perdure.domain.outputs import OutputSchema
from perdure.domain.paging import AllowedAction, Page, page_of
from perdure.domain.resources import (
    NameCheck,
    ResourceStats,
    check_free_word,
    copy_name,
    copy_stem,
    is_reserved,
    require_manager,
)
from perdure.domain.sessions import InitialFile, clean_tags
from perdure.domain.times import Micros, maybe_rfc3339, to_rfc3339
from perdure.domain.tools import Capabilities, ToolDefinition
from perdure.store.accounts import lock_organization
from perdure.store.agents import (
    AgentRow,
    add_agent,
    agent_by_name,
    agent_by_ref,
    agent_names,
    get_agent,
    holder_of_agent,
    list_agents,
    update_agent,
)
from perdure.store.database import Changes, Tx
from perdure.store.harnesses import HarnessRow
from perdure.store.rows import to_json
from perdure.store.stats import resource_stats, session_counts


def to_agent(row: AgentRow, *, sessions: int | None = None) -> Agent:
    """Convert a row to the resource that clients see; without `sessions` it has no session count."""
    config, url = row.config_struct(), f"/v1/agents/{row.id}"
    actions = [
        AllowedAction("self", "GET", url, "get_agent"),
        AllowedAction("update", "PATCH", url, "update_agent"),
        AllowedAction("delete", "DELETE", url, "delete_agent"),
        AllowedAction("copy", "POST", f"{url}/copy", "copy_agent"),
        AllowedAction("export", "GET", f"{url}/export", "export_agent"),
        AllowedAction("versions", "GET", f"{url}/versions", "list_agent_versions"),
    ]
    return Agent(
        id=row.id,
        name=row.name,
        system_prompt=row.system_prompt,
        harness_id=row.harness_id,
        status=row.status,
        created_at=to_rfc3339(row.created_at),
        updated_at=to_rfc3339(row.updated_at),
        self_url=url,
        view_url=url,
        ui_link=url,
        capabilities=config.capabilities,
        tools=config.tools,
        tags=row.tag_list(),
        display_name=row.display_name,
        description=row.description,
        default_model_id=row.default_model_id,
        initial_files=config.initial_files,
        max_iterations=config.max_iterations,
        parallel_tool_calls=config.parallel_tool_calls,
        network_access=config.network_access,
        mcp_servers=config.mcp_servers,
        expose_mcp=config.expose_mcp,
        output_schema=config.output_schema,
        variables=config.variables or {},
        fallback_models=config.fallback_models,
        default_version_id=row.default_version_id,
        forked_from_agent_id=row.forked_from_agent_id,
        forked_from_version_id=row.forked_from_version_id,
        root_agent_id=row.root_agent_id,
        archived_at=maybe_rfc3339(row.archived_at),
        deleted_at=to_rfc3339(row.updated_at) if row.status == "deleted" else None,
        session_count=UNSET if sessions is None else sessions,
        app_count=UNSET if sessions is None else 0,
        allowed_actions=tuple(actions),
    )


async def create_agent(
    app: App,
    caller: Caller,
    body: CreateAgent,
    agent_id: AgentId | None = None,
    *,
    kind: ChangeKind = "auto",
    once: Once | None = None,
) -> tuple[Agent, bool]:
    """Create an agent, or replace the one with this id or name.

    Returns:
        The agent, and whether it is new.
    """
    require_manager(caller, "agent")
    tags = clean_tags(body.tags)
    await _check_parts(app, body.capabilities, body.tools, body.initial_files)
    check_network(body.network_access)
    await check_inline(app, body.mcp_servers)
    capabilities = await stored_refs(app, caller.organization_id, body.capabilities)
    body = msgspec.structs.replace(body, capabilities=capabilities)
    output_schema = await checked_output(body.output_schema, body.response_format)
    requested_id = agent_id or body.id
    new_id = None if requested_id is None else check_id(requested_id, "agent", "id")
    now = app.now()

    async def work(tx: Tx) -> tuple[Agent, bool]:
        org_id = caller.organization_id
        # Serializes upserts, so that the second one under a name finds the first.
        await lock_organization(tx, org_id)
        harness = await _harness_for(tx, org_id, body.harness_id, body.harness_name)
        await check_refs(app, tx, org_id, body.capabilities)
        model_id: ModelId | None = None
        if body.default_model_id is not None:
            model_id = await check_model(tx, org_id, body.default_model_id, "default_model_id")
        await check_fallbacks(tx, org_id, body.fallback_models)
        old = await _existing(tx, org_id, new_id, body.name)
        row = AgentRow(
            id=old.id if old is not None else new_id or app.new_id("agent"),
            org_id=org_id,
            name=body.name,
            display_name=body.display_name,
            description=body.description,
            system_prompt=body.system_prompt,
            harness_id=harness.id,
            default_model_id=model_id,
            tags=to_json(tags),
            config=to_json(_config_of(body, output_schema, old)),
            status="active",
            created_at=now,
            updated_at=now,
            archived_at=None,
        )
        if old is not None:
            changes: Changes = {name: getattr(row, name) for name in _REPLACED}
            return await apply_changes(app, tx, caller, old, changes, now, kind=kind), False
        return await insert_agent(app, tx, caller, row, kind=kind), True

    return await write_once(app, once, work, lambda result: (result[0], 201 if result[1] else 200))


_REPLACED = (
    "name",
    "display_name",
    "description",
    "system_prompt",
    "harness_id",
    "default_model_id",
    "tags",
    "config",
    "status",
    "archived_at",
)
"""The columns that replacing an agent sets."""


def _config_of(body: CreateAgent, output_schema: OutputSchema | None, old: AgentRow | None) -> AgentConfig:
    return AgentConfig(
        body.expose_mcp,
        body.capabilities,
        body.tools,
        body.initial_files,
        body.max_iterations,
        body.parallel_tool_calls,
        body.network_access,
        body.mcp_servers,
        output_schema,
        stored_variables(body.system_prompt, body.variables, old),
        body.fallback_models,
    )


async def insert_agent(
    app: App,
    tx: Tx,
    caller: Caller,
    row: AgentRow,
    *,
    kind: ChangeKind = "auto",
    source: AgentVersionId | None = None,
) -> Agent:
    """Insert an agent and its first version. Raises Conflict if its name is taken."""
    check_free_word(row.name)
    if await agent_by_name(tx, row.org_id, row.name) is not None:
        raise _name_taken(row.name)
    await add_agent(tx, row)
    await record_change(app, tx, caller, None, row, kind=kind, source=source)
    return to_agent(row)


async def apply_changes(
    app: App,
    tx: Tx,
    caller: Caller,
    row: AgentRow,
    changes: Changes,
    now: Micros,
    *,
    kind: ChangeKind = "auto",
    summary: str | None = None,
    source: AgentVersionId | None = None,
    keep: bool = True,
) -> Agent:
    """Change columns of an agent whose row is locked; with `keep`, record the change as a version.

    Raises:
        Forbidden: the change loosens the agent's policies, and the caller may not do that.
    """
    new = msgspec.structs.replace(row, **changes)
    await check_policy_kept(app, tx, caller, row, new)
    if new.status == "active" and (new.name != row.name or row.status != "active"):
        check_free_word(new.name)
        if await agent_by_name(tx, row.org_id, new.name) is not None:
            raise _name_taken(new.name)
    changes = {**changes, "updated_at": max(now, row.updated_at + 1)}
    new = msgspec.structs.replace(new, updated_at=changes["updated_at"])
    await update_agent(tx, row.org_id, row.id, changes)
    if keep:
        await record_change(app, tx, caller, row, new, kind=kind, summary=summary, source=source)
    return to_agent(new)


def _name_taken(name: str) -> Conflict:
    return Conflict(f"another agent is named {name!r}", code="name_taken")


async def _check_parts(
    app: App,
    capabilities: Capabilities | UnsetType,
    tools: tuple[ToolDefinition, ...] | UnsetType,
    files: tuple[InitialFile, ...] | UnsetType,
) -> None:
    if capabilities is not UNSET:
        app.registry.check(capabilities)
        await check_configs(app, capabilities)
    if tools is not UNSET:
        await check_tools(tools)
    if files is not UNSET:
        check_files(files)


def check_files(files: tuple[InitialFile, ...]) -> None:
    """Check that a session can start with these files.

    Raises:
        InvalidInput: a path or base64 content is not valid, or a path occurs twice.
    """
    seen: set[str] = set()
    for index, file in enumerate(files):
        where = f"initial_files[{index}]"
        path, _ = checked_file(file, where)
        if path in seen:
            raise InvalidInput(
                f"`{where}.path`: {path!r} occurs twice; each path must be unique", field=where
            )
        seen.add(path)


async def _existing(tx: Tx, org_id: OrgId, agent_id: AgentId | None, name: str) -> AgentRow | None:
    """Return the agent that an upsert replaces, with its row locked; None if the agent is new."""
    if agent_id is None:
        return await agent_by_name(tx, org_id, name, lock=True)
    holder = await holder_of_agent(tx, agent_id)
    if holder is None:
        return None
    row = await get_agent(tx, org_id, agent_id, lock=True)
    if row.status == "deleted":
        raise NotFound("agent")
    return row


async def _harness_for(tx: Tx, org_id: OrgId, harness_id: str | None, name: str | None) -> HarnessRow:
    if harness_id is not None and name is not None:
        raise InvalidInput("set either `harness_id` or `harness_name`, not both", field="harness_id")
    return await find_harness(tx, org_id, harness_id, name)


async def find_agent(tx: Tx, org_id: OrgId, ref: str, *, lock: bool = False) -> AgentRow:
    """Return an agent by id or name; an archived one only by id. `lock` locks its row until the commit.

    Raises NotFound.
    """
    row = await agent_by_ref(tx, org_id, ref, lock=lock)
    if row is None:
        raise NotFound("agent")
    return row


async def read_agent(app: App, caller: Caller, ref: str) -> Agent:
    """Read an agent, by id or name, with the number of its sessions."""

    async def work(tx: Tx) -> Agent:
        row = await find_agent(tx, caller.organization_id, ref)
        counts = await session_counts(tx, row.org_id, "agent_id", (row.id,))
        return to_agent(row, sessions=counts.get(row.id, 0))

    return await app.database.read(work, long=True)


async def page_of_agents(
    app: App, caller: Caller, text: str | None, archived: bool, offset: int, limit: int
) -> Page[Agent]:
    """List a page of agents, newest first, without their initial files."""

    async def work(tx: Tx) -> Page[Agent]:
        rows, total = await list_agents(tx, caller.organization_id, text, archived, offset, limit)
        counts = await session_counts(tx, caller.organization_id, "agent_id", tuple(row.id for row in rows))
        agents = (to_agent(without_damage(row), sessions=counts.get(row.id, 0)) for row in rows)
        listed = [msgspec.structs.replace(each, initial_files=()) for each in agents]
        return page_of(listed, total, offset, limit)

    return await search(app, caller, work)


async def change_agent(
    app: App, caller: Caller, ref: str, body: UpdateAgent, if_match: frozenset[str] | None = None
) -> Agent:
    """Change the fields of an agent that the body contains."""
    require_manager(caller, "agent")
    await _check_parts(app, body.capabilities, body.tools, body.initial_files)
    check_network(body.network_access)
    await check_inline(app, body.mcp_servers)
    output_schema = await changed_output(body.output_schema, body.response_format)
    capabilities = await stored_refs(app, caller.organization_id, body.capabilities)
    body = msgspec.structs.replace(
        body, output_schema=output_schema, response_format=UNSET, capabilities=capabilities
    )
    now = app.now()

    async def work(tx: Tx) -> Agent:
        row = await find_agent(tx, caller.organization_id, ref, lock=True)
        check_match(if_match, to_agent(row).editable())
        await check_refs(app, tx, row.org_id, body.capabilities)
        changes = await _agent_changes(tx, row, body, now)
        return await apply_changes(app, tx, caller, row, changes, now) if changes else to_agent(row)

    return await app.database.write(work)


async def _agent_changes(tx: Tx, row: AgentRow, body: UpdateAgent, now: Micros) -> Changes:
    """Check a change and return the columns that it sets."""
    fields = {
        name: getattr(body, name) for name in body.__struct_fields__ if getattr(body, name) is not UNSET
    }
    for name, empty in (("mcp_servers", {}), ("variables", {}), ("fallback_models", ())):
        if name in fields:
            fields[name] = fields[name] or empty
    if "system_prompt" in fields or "variables" in fields:
        given = fields.get("variables", row.config_struct().variables or {})
        fields["variables"] = stored_variables(fields.get("system_prompt", row.system_prompt), given, row)
    plain = ("name", "system_prompt", "display_name", "description", "default_model_id")
    changes: Changes = {name: fields[name] for name in plain if name in fields}
    if fields.get("default_model_id") is not None:
        await check_model(tx, row.org_id, fields["default_model_id"], "default_model_id")
    await check_fallbacks(tx, row.org_id, fields.get("fallback_models", ()))
    if "harness_id" in fields or "harness_name" in fields:
        harness = await _harness_for(tx, row.org_id, fields.get("harness_id"), fields.get("harness_name"))
        changes["harness_id"] = harness.id
    if "tags" in fields:
        changes["tags"] = to_json(clean_tags(fields["tags"]))
    parts = {name: fields[name] for name in AgentConfig.__struct_fields__ if name in fields}
    if parts:
        changes["config"] = to_json(msgspec.structs.replace(row.config_struct(), **parts))
    if "status" in fields and fields["status"] != row.status:
        changes |= {
            "status": fields["status"],
            "archived_at": None if fields["status"] == "active" else row.archived_at or now,
        }
    return changes


async def archive_agent(app: App, caller: Caller, ref: str) -> None:
    """Archive an agent: lists hide it, and no session can start with it.

    Its running sessions stop at their next step, with a message that says why.
    """
    require_manager(caller, "agent")
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await find_agent(tx, caller.organization_id, ref, lock=True)
        if row.status != "archived":
            await apply_changes(app, tx, caller, row, {"status": "archived", "archived_at": now}, now)

    await app.database.write(work)


async def copy_agent(app: App, caller: Caller, ref: str, once: Once | None = None) -> Agent:
    """Create an agent with the same configuration, under the next free name `...-copy`."""
    require_manager(caller, "agent")
    now = app.now()

    async def work(tx: Tx) -> Agent:
        # Serializes copies, so that each finds the names that earlier ones took.
        await lock_organization(tx, caller.organization_id)
        source = await find_agent(tx, caller.organization_id, ref)
        taken = await agent_names(tx, source.org_id, copy_stem(source.name))
        row = msgspec.structs.replace(
            source,
            id=app.new_id("agent"),
            name=copy_name(source.name, taken),
            status="active",
            created_at=now,
            updated_at=now,
            archived_at=None,
            default_version_id=None,
            forked_from_agent_id=None,
            forked_from_version_id=None,
            root_agent_id=None,
        )
        return await insert_agent(app, tx, caller, row)

    return await write_once(app, once, work)


async def check_agent_name(app: App, caller: Caller, name: str, exclude_id: AgentId | None) -> NameCheck:
    """Check whether a name is free for an agent, or belongs to the agent with `exclude_id`."""
    if is_reserved(name):
        return NameCheck(False)
    row = await app.database.read(lambda tx: agent_by_name(tx, caller.organization_id, name))
    return NameCheck(row is None or row.id == exclude_id)


async def agent_stats(app: App, caller: Caller, ref: str) -> ResourceStats:
    """Sum up an agent's sessions."""

    async def work(tx: Tx) -> ResourceStats:
        row = await find_agent(tx, caller.organization_id, ref)
        return await resource_stats(tx, row.org_id, "agent_id", row.id)

    return await app.database.read(work, long=True)
