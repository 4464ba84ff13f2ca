"""Sessions: create, read, list, change, delete, cancel, pin."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import lru_cache

import msgspec
from msgspec import UNSET

from perdure.app.confidential import check_workspace, close_to_others
from perdure.app.context import App
from perdure.app.damaged import without_damage
from perdure.app.etags import check_match
from perdure.app.idempotency import Once, write_once
from perdure.app.initial_files import mounts, write_initial_files
from perdure.app.mcp_checks import check_inline
from perdure.app.output_schemas import checked_output
from perdure.app.ref_checks import check_configs, check_refs
from perdure.app.session_room import check_room_for_session
from perdure.app.stored_refs import stored_refs
from perdure.app.tool_definitions import check_tools
from perdure.app.variables import check_session_values, config_with_values
from perdure.capabilities.features import Features, SessionFeatures
from perdure.capabilities.layers import agent_layer, harness_layer, session_layer
from perdure.capabilities.resolve import features_of, mounts_of, resolve
from perdure.domain.accounts import Caller, PrincipalSummary
from perdure.domain.errors import Damaged, InvalidInput, NotFound, StaleHead
from perdure.domain.events import (
    EventContext,
    NewEvent,
    SessionStartedData,
)
from perdure.domain.harnesses import DEFAULT_HARNESS
from perdure.domain.ids import (
    ModelId,
    OrgId,
    PrincipalId,
    SessionId,
    UserId,
    WorkspaceId,
    check_id,
    uuid_of,
)
from perdure.domain.network import check_network
from perdure.domain.resources import check_size
from perdure.domain.session_metadata import clean_metadata, read_metadata
from perdure.domain.sessions import (
    CreateSession,
    Session,
    SessionConfig,
    UpdateSession,
    action_links,
    clean_tags,
    clean_title,
    editable_fields,
)
from perdure.domain.times import Micros, maybe_rfc3339, to_rfc3339
from perdure.store.accounts import get_organization
from perdure.store.agent_versions import get_agent_at
from perdure.store.agents import AgentRow, agent_by_name, get_agent
from perdure.store.database import Body, Changes, Tx
from perdure.store.harnesses import HarnessRow, get_harness, harness_by_name, harness_chain
from perdure.store.providers import get_model
from perdure.store.rows import to_json
from perdure.store.session_changes import update_as_read
from perdure.store.session_details import SessionDetails, get_session_details
from perdure.store.sessions import SessionRow, begin_session
from perdure.store.workspaces import hold_for_writing


def to_session(
    row: SessionRow, *, features: Features, pinned: bool | None, schedules: int = 0, listed: bool = False
) -> Session:
    """Convert a row to the resource that clients see. Lists leave out the initial files and the hints."""
    config, owner, url = row.config_struct(), _principal(row.owner_id), f"/v1/sessions/{row.id}"
    session = Session(
        id=row.id,
        organization_id=row.org_id,
        harness_id=row.harness_id,
        owner_principal_id=owner.id,
        workspace_id=row.workspace(),
        status=row.status,
        created_at=to_rfc3339(row.created_at),
        updated_at=to_rfc3339(row.updated_at),
        self_url=url,
        view_url=url,
        ui_link=url,
        tags=row.tag_list(),
        capabilities=config.capabilities,
        tools=config.tools,
        source=row.source,
        features=features,
        agent_id=row.agent_id,
        agent_version_id=row.agent_version_id,
        created_with_agent_id=row.handed_over_by(),
        title=row.title,
        locale=row.locale,
        model_id=row.model_id,
        system_prompt=config.system_prompt,
        max_iterations=config.max_iterations,
        parallel_tool_calls=config.parallel_tool_calls,
        initial_files=() if listed else config.initial_files,
        network_access=config.network_access,
        hints=None if listed else config.hints,
        mcp_servers=config.mcp_servers,
        output_schema=config.output_schema,
        variables=config.variables,
        fallback_models=config.fallback_models,
        is_pinned=pinned,
        active_schedule_count=schedules,
        preview=row.preview,
        output_preview=row.output_preview,
        usage=row.usage_struct(),
        forked_from_session_id=row.forked_from_id,
        forked_from_sequence=row.forked_from_sequence,
        metadata=read_metadata(row.metadata),
        archived_at=maybe_rfc3339(row.archived_at),
        held_at=maybe_rfc3339(row.held_at),
        started_at=maybe_rfc3339(row.started_at),
        finished_at=maybe_rfc3339(row.finished_at),
        parked_on=tuple(call.on_wire() for call in row.parked_calls()),
        owner=owner,
        effective_owner=owner,
        resolved_owner_user_id=owner.subject_id,
        allowed_actions=action_links(row.id, row.status, bool(pinned)),
    )
    return session if row.parent_session_id is None else _in_tree(session, row)


def _in_tree(session: Session, row: SessionRow) -> Session:
    return msgspec.structs.replace(
        session,
        parent_session_id=row.parent_session_id,
        root_session_id=row.root_session_id,
        task_id=row.task_id,
        blueprint_id=row.config_struct().blueprint,
    )


@lru_cache(maxsize=256)  # the sessions of a list have few owners
def _principal(user_id: UserId) -> PrincipalSummary:
    return PrincipalSummary(PrincipalId(f"principal_{user_id[5:]}"), "user", uuid_of(user_id))


async def read_details(app: App, tx: Tx, caller: Caller, row: SessionRow) -> Session:
    """Return the resource that the caller sees."""
    details = await get_session_details(tx, row.org_id, row.id, caller.user_id)
    return _shown(details, await _features(app, tx, details), row)


async def _features(app: App, tx: Tx, details: SessionDetails) -> SessionFeatures:
    features = SessionFeatures(app.registry, app.features)
    await features.read(tx, (details.row,), details)
    return features


def _shown(details: SessionDetails, features: SessionFeatures, row: SessionRow) -> Session:
    """Return the resource of a session whose row may be newer than its details."""
    return described(row, features, pinned=details.pinned, schedules=details.schedules)


def described(
    row: SessionRow, features: SessionFeatures, *, pinned: bool, schedules: int, listed: bool = False
) -> Session:
    """Describe a session whose features are read. One that is damaged is shown without what is lost."""
    try:
        names = features.of(row)
        return to_session(row, features=names, pinned=pinned, schedules=schedules, listed=listed)
    except Damaged:
        row = without_damage(row)
        names = features.of(row)
        return to_session(row, features=names, pinned=pinned, schedules=schedules, listed=listed)


async def create_session(app: App, caller: Caller, body: CreateSession, once: Once | None = None) -> Session:
    """Create a session; its log begins with `session.started`."""
    create = await creating(app, caller, body)

    async def work(tx: Tx) -> Session:
        return (await create(tx))[1]

    return await write_once(app, once, work)


async def creating(app: App, caller: Caller, body: CreateSession) -> Body[tuple[SessionRow, Session]]:
    """Check a session, and return the part of a transaction that creates it."""
    tags, title = clean_tags(body.tags), clean_title(body.title)
    app.registry.check(body.capabilities)
    await check_configs(app, body.capabilities)
    capabilities = await stored_refs(app, caller.organization_id, body.capabilities)
    check_network(body.network_access)
    await check_inline(app, body.mcp_servers)
    await check_tools(body.tools)
    output_schema = await checked_output(body.output_schema, body.response_format)
    body = msgspec.structs.replace(
        body, output_schema=output_schema, response_format=None, capabilities=capabilities
    )
    now = app.now()

    async def work(tx: Tx) -> tuple[SessionRow, Session]:
        agent, harness = await _layers_for(tx, caller.organization_id, body)
        check_session_values(body.variables, agent)
        await check_refs(app, tx, caller.organization_id, body.capabilities)
        model_id: ModelId | None = None
        if body.model_id is not None:
            model_id = await check_model(tx, caller.organization_id, body.model_id)
        await check_fallbacks(tx, caller.organization_id, body.fallback_models)
        workspace_id: WorkspaceId | None = None
        if body.workspace_id is not None:
            workspace_id = check_id(body.workspace_id, "workspace", "workspace_id")
            await check_workspace(tx, caller, workspace_id)
            await hold_for_writing(tx, caller.organization_id, workspace_id)
        row = _new_row(
            app,
            caller,
            body,
            harness,
            agent,
            title=title,
            tags=tags,
            model_id=model_id,
            workspace_id=workspace_id,
            now=now,
        )
        started = SessionStartedData(row.harness_id, row.agent_id, row.model_id)
        check_size(row.config)
        await check_room_for_session(app, tx, row.org_id, row.owner_id)
        row, _ = await begin_session(tx, row, [NewEvent(started, EventContext(), now)], now=now)
        layers = [harness_layer(each) for each in await harness_chain(tx, row.org_id, row.harness_id)]
        layers += [*([] if agent is None else [agent_layer(agent)]), session_layer(row)]
        if body.tools or body.capabilities:
            resolve(layers, app.registry)  # fails now for a duplicate tool name, not in the first turn
        active = app.registry.resolve(layer.capabilities for layer in layers)
        if any(each.scope == "user" for each in mounts_of(active)):
            await close_to_others(tx, row, now)
        files = [mounts(active), *(layer.initial_files for layer in layers)]
        await write_initial_files(app, tx, row, files, now)
        return row, to_session(row, features=features_of(active), pinned=False)

    return work


def _new_row(
    app: App,
    caller: Caller,
    body: CreateSession,
    harness: HarnessRow,
    agent: AgentRow | None,
    *,
    title: str | None,
    tags: tuple[str, ...],
    model_id: ModelId | None,
    workspace_id: WorkspaceId | None,
    now: Micros,
) -> SessionRow:
    return SessionRow(
        id=app.new_id("session"),
        org_id=caller.organization_id,
        owner_id=caller.user_id,
        harness_id=harness.id,
        agent_id=agent.id if agent else None,
        title=title,
        tags=to_json(tags),
        locale=body.locale,
        model_id=model_id,
        config=to_json(_config_of(body)),
        forked_from_id=None,
        forked_from_sequence=None,
        created_at=now,
        updated_at=now - 1,
        deleted_at=None,
        epoch=0,
        recoveries=0,
        claimed_head=-1,
        head=0,
        status="started",
        turn_id=None,
        turn_after=0,
        wake_at=None,
        preview=None,
        output_preview=None,
        usage=None,
        started_at=None,
        finished_at=None,
        agent_version_id=agent.default_version_id if agent else None,
        workspace_id=workspace_id,
        source=body.source or "api",
        metadata=to_json(clean_metadata(body.metadata, {})),
    )


def _config_of(body: CreateSession) -> SessionConfig:
    return SessionConfig(
        body.capabilities,
        body.tools,
        body.system_prompt,
        body.max_iterations,
        body.parallel_tool_calls,
        body.initial_files,
        body.network_access,
        body.hints,
        body.mcp_servers,
        body.output_schema,
        body.variables,
        body.fallback_models,
    )


async def _layers_for(tx: Tx, org_id: OrgId, body: CreateSession) -> tuple[AgentRow | None, HarnessRow]:
    if body.agent_id is not None and body.agent_name is not None:
        raise InvalidInput("set either `agent_id` or `agent_name`, not both", field="agent_id")
    if body.harness_id is not None and body.harness_name is not None:
        raise InvalidInput("set either `harness_id` or `harness_name`, not both", field="harness_id")
    agent: AgentRow | None = None
    if body.agent_id is not None:
        agent = await get_agent(tx, org_id, check_id(body.agent_id, "agent", "agent_id"))
    elif body.agent_name is not None:
        agent = await agent_by_name(tx, org_id, body.agent_name)
        if agent is None:
            raise NotFound("agent")
    if agent is not None:
        check_startable(agent)
    if agent is not None and agent.default_version_id is not None:
        agent = await get_agent_at(tx, org_id, agent.id, agent.default_version_id)
    if body.harness_id is None and body.harness_name is None and agent is not None:
        return agent, await get_harness(tx, org_id, agent.harness_id)
    return agent, await find_harness(tx, org_id, body.harness_id, body.harness_name)


def check_startable(agent: AgentRow) -> None:
    """Check that sessions can start with this agent. Raises NotFound or InvalidInput."""
    if agent.status == "deleted":
        raise NotFound("agent")
    if agent.status != "active":
        raise InvalidInput(
            f"the agent {agent.name!r} is archived and cannot start sessions: set its `status` to `active`",
            code="agent_archived",
            field="agent_id",
        )


async def find_harness(
    tx: Tx, org_id: OrgId, harness_id: str | None, name: str | None, field: str = "harness_id"
) -> HarnessRow:
    """Return the active harness with this id or name, or without either the organization's default.

    Raises NotFound, and InvalidInput if it is archived.
    """
    if harness_id is not None:
        harness = await get_harness(tx, org_id, check_id(harness_id, "harness", field))
    else:
        harness = await _named_harness(tx, org_id, name)
    if harness.status == "deleted":
        raise NotFound("harness")
    if harness.status != "active":
        raise InvalidInput(
            f"the harness {harness.name!r} is archived: choose another, or set its `status` to `active`",
            code="harness_archived",
            field=field,
        )
    return harness


async def _named_harness(tx: Tx, org_id: OrgId, name: str | None) -> HarnessRow:
    if name is None:
        organization = await get_organization(tx, org_id)
        if organization is not None and organization.default_harness_id is not None:
            return await get_harness(tx, org_id, organization.default_harness_id)
    harness = await harness_by_name(tx, org_id, DEFAULT_HARNESS if name is None else name)
    if harness is None:
        raise NotFound("harness")
    return harness


async def check_model(tx: Tx, org_id: OrgId, model_id: str, field: str = "model_id") -> ModelId:
    """Check that an id names a model of the organization. Raises InvalidId or NotFound."""
    checked = check_id(model_id, "model", field)
    await get_model(tx, org_id, checked)
    return checked


async def check_fallbacks(tx: Tx, org_id: OrgId, ids: Sequence[str]) -> None:
    """Check that these ids name models of the organization, each once. Raises InvalidInput or NotFound."""
    for index, model_id in enumerate(ids):
        field = f"fallback_models[{index}]"
        await check_model(tx, org_id, model_id, field)
        if model_id in ids[:index]:
            raise InvalidInput(f"`{field}` is named twice: remove one of them", field=field)


async def read_session(app: App, caller: Caller, session_id: SessionId) -> Session:
    """Read a session. Raises NotFound."""

    async def work(tx: Tx) -> Session:
        details = await get_session_details(tx, caller.organization_id, session_id, caller.user_id)
        return _shown(details, await _features(app, tx, details), details.row)

    return await app.database.read(work)


async def change_session(
    app: App,
    caller: Caller,
    session_id: SessionId,
    body: UpdateSession,
    if_match: frozenset[str] | None = None,
) -> Session:
    """Change the fields of a session that the body contains; a running turn is not disturbed."""
    changes: Changes = {}
    if body.title is not UNSET:
        changes["title"] = clean_title(body.title)
    if body.tags is not UNSET:
        changes["tags"] = to_json(clean_tags(body.tags))
    if body.locale is not UNSET:
        changes["locale"] = body.locale
    if body.model_id is not UNSET:
        changes["model_id"] = body.model_id
    merged = bool(body.metadata) or body.variables is not UNSET
    if body.metadata is None:
        changes["metadata"] = "{}"
    writes = bool(changes) or merged
    now = app.now()

    async def work(tx: Tx) -> Session:
        lock = writes and not tx.single
        details = await get_session_details(tx, caller.organization_id, session_id, caller.user_id, lock=lock)
        row, features = details.row, await _features(app, tx, details)
        if if_match is not None:
            fields = (row.title, row.tag_list(), row.locale, row.model_id, read_metadata(row.metadata))
            check_match(if_match, editable_fields(*fields, row.config_struct().variables))
        if body.metadata:
            changes["metadata"] = to_json(clean_metadata(body.metadata, read_metadata(row.metadata)))
        if body.variables is not UNSET:
            changes["config"] = await config_with_values(tx, row, body.variables or {})
        if isinstance(body.model_id, str):
            await check_model(tx, caller.organization_id, body.model_id)
        return _shown(details, features, await update_as_read(tx, details, changes, now) if changes else row)

    if not writes:
        return await app.database.read(work)
    with contextlib.suppress(StaleHead):  # it was changed just now: lock it
        return await app.database.write(work, single=True)
    return await app.database.write(work)
