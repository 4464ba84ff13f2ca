"""Registered MCP servers: create, read, list, change, archive, delete, and label their tools."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from perdure.app.context import App
from perdure.app.idempotency import Once, write_once
from perdure.app.mcp_checks import check_urls
from perdure.app.mcp_settings import McpSettings, changed_settings, is_same, settings_of, stored_settings
from perdure.domain.accounts import Caller
from perdure.domain.errors import Conflict, Forbidden, InvalidInput, TooLarge
from perdure.domain.ids import McpServerId, OrgId
from perdure.domain.local_mcp import LocalMcpServer
from perdure.domain.mcp_servers import (
    HIDDEN,
    MCP_REF,
    CreateMcpServer,
    McpRules,
    McpServer,
    UpdateMcpServer,
    slug_of,
)
from perdure.domain.mcp_views import McpToolLabel, SetMcpToolLabel
from perdure.domain.paging import AllowedAction
from perdure.domain.resources import require_manager
from perdure.domain.times import maybe_rfc3339, to_rfc3339
from perdure.domain.visible import check_labels
from perdure.store.accounts import lock_organization
from perdure.store.connections import remove_connections_of_server
from perdure.store.database import Changes, Tx
from perdure.store.mcp_pins import drop_pins
from perdure.store.mcp_servers import (
    McpServerRow,
    SealedMcpSecrets,
    add_mcp_server,
    count_mcp_servers,
    delete_mcp_server,
    get_mcp_server,
    list_mcp_servers,
    mcp_slugs,
    open_mcp_secrets,
    seal_mcp_secrets,
    update_mcp_server,
)
from perdure.store.rows import to_json

MAX_SERVERS = 500
"""Registered servers of an organization, archived ones included."""
MAX_LABELS = 1_000
MAX_RULES = 64 * 1024
"""Characters of a server's rules as JSON: each turn reads them."""


# --- views --------------------------------------------------------------------


def _with_rules(server: McpServer, rules: McpRules) -> McpServer:
    return msgspec.structs.replace(
        server, **{name: getattr(rules, name) for name in McpRules.__struct_fields__}
    )


def to_server(row: McpServerRow) -> McpServer:
    """Convert a row to the resource that clients see; of stored secrets it says only which ones are set."""
    url, client = f"/v1/mcp-servers/{row.id}", row.client()
    actions = [
        AllowedAction("self", "GET", url, "get_mcp_server"),
        AllowedAction("tools", "GET", f"{url}/tools", "list_mcp_server_tools"),
        AllowedAction("check", "POST", f"{url}/check-connection", "check_mcp_server_connection"),
        AllowedAction("update", "PATCH", url, "update_mcp_server"),
        AllowedAction("archive", "DELETE", url, "delete_mcp_server"),
        AllowedAction("delete", "POST", f"{url}/delete", "destroy_mcp_server", "Delete it for good"),
    ]
    server = McpServer(
        id=row.id,
        name=row.name,
        url=row.url,
        transport_type="http",
        status=row.status,
        api_key_set=bool(row.api_key_set),
        created_at=to_rfc3339(row.created_at),
        updated_at=to_rfc3339(row.updated_at),
        self_url=url,
        view_url=url,
        ui_link=url,
        slug=row.slug,
        description=row.description,
        auth_mode=row.auth_mode,
        protocol_mode=row.protocol_mode,
        headers=row.shown_headers(),
        oauth_client_id=client.client_id,
        oauth_client_secret_set=client.secret_set,
        oauth_issuer=client.issuer,
        oauth_scopes=client.scopes,
        archived_at=maybe_rfc3339(row.archived_at),
        allowed_actions=tuple(actions),
    )
    return _with_rules(server, row.rules_struct())


def to_local_server(server: LocalMcpServer) -> McpServer:
    """Convert a server of the operator's file to the resource that clients see: without its command."""
    url, never = f"/v1/mcp-servers/{server.id}", to_rfc3339(0)
    actions = [
        AllowedAction("self", "GET", url, "get_mcp_server"),
        AllowedAction("tools", "GET", f"{url}/tools", "list_mcp_server_tools"),
        AllowedAction("check", "POST", f"{url}/check-connection", "check_mcp_server_connection"),
    ]
    shown = McpServer(
        id=server.id,
        name=server.name,
        url=server.url or "",
        transport_type="http" if server.command is None else "stdio",
        status="active",
        api_key_set=False,
        created_at=never,
        updated_at=never,
        self_url=url,
        view_url=url,
        ui_link=url,
        slug=server.slug,
        description=server.description,
        headers=dict.fromkeys(server.headers, HIDDEN),
        allowed_actions=tuple(actions),
    )
    return _with_rules(shown, server.rules)


# --- use cases ----------------------------------------------------------------


async def create_server(
    app: App, caller: Caller, body: CreateMcpServer, once: Once | None = None
) -> McpServer:
    """Register a server; its API key and header values are stored encrypted."""
    require_manager(caller, "mcp_server")
    check_labels(body, "name")
    settings = settings_of(body)
    _check_size(settings)
    await check_urls({"url": settings.url}, app.private_addresses)
    now, server_id = app.now(), McpServerId(app.new_id("mcp"))

    async def work(tx: Tx) -> McpServer:
        org_id = caller.organization_id
        # Serializes registrations, so that each finds the slugs that earlier ones took.
        await lock_organization(tx, org_id)
        if await count_mcp_servers(tx, org_id) >= MAX_SERVERS:
            raise Conflict(
                f"the organization has {MAX_SERVERS} MCP servers, the maximum: delete some first",
                code="too_many_mcp_servers",
            )
        sealed = await _seal(app, tx, org_id, server_id, settings)
        row = McpServerRow(
            id=server_id,
            org_id=org_id,
            name=body.name,
            slug=_free_slug(app, body.name, await mcp_slugs(tx, org_id)),
            url=settings.url,
            description=body.description,
            auth_mode=settings.auth_mode,
            protocol_mode=settings.protocol_mode,
            status="active",
            rules=to_json(settings.rules),
            headers=sealed.headers,
            labels="{}",
            secrets=sealed.secrets,
            api_key_set=sealed.api_key_set,
            created_at=now,
            updated_at=now,
            archived_at=None,
            oauth=sealed.oauth,
        )
        await add_mcp_server(tx, row)
        return to_server(row)

    return await write_once(app, once, work)


def _free_slug(app: App, name: str, stored: set[str]) -> str:
    """Return the slug of a name, with a number if another server has it. It stays when the name changes.

    Otherwise a new name would rename tools under running sessions, and lose the decisions about them.
    """
    taken, slug, number = stored | {each.slug for each in app.local_mcp.values()}, slug_of(name), 2
    while slug in taken:
        slug, number = f"{slug_of(name)}_{number}", number + 1
    return slug


async def _seal(
    app: App, tx: Tx, org_id: OrgId, server_id: McpServerId, settings: McpSettings
) -> SealedMcpSecrets:
    return await seal_mcp_secrets(
        app.vault, tx, org_id, server_id, settings.secrets, settings.shown, settings.client
    )


def _check_size(settings: McpSettings) -> None:
    size = len(to_json(settings.rules))
    if size > MAX_RULES:
        raise TooLarge(f"the lists of tools take {size} characters as JSON; the maximum is {MAX_RULES}")


async def read_server(app: App, caller: Caller, server_id: McpServerId) -> McpServer:
    """Read a server, whatever its status. Raises NotFound."""
    local = app.local_mcp.get(server_id)
    if local is not None:
        return to_local_server(local)
    return to_server(
        await app.database.read(lambda tx: get_mcp_server(tx, caller.organization_id, server_id))
    )


async def all_servers(app: App, caller: Caller, text: str | None, archived: bool) -> list[McpServer]:
    """List the organization's servers, oldest first, after those of the operator's file.

    Args:
        text: what the name, the URL or the description contains.
        archived: whether to include archived ones.
    """
    wanted = (text or "").lower()
    local = [
        to_local_server(each)
        for each in app.local_mcp.values()
        if wanted in f"{each.name}\n{each.url or ''}\n{each.description or ''}".lower()
    ]
    rows = await app.database.read(
        lambda tx: list_mcp_servers(tx, caller.organization_id, text, archived), long=True
    )
    return [*local, *map(to_server, rows)]


def check_changeable(app: App, server_id: McpServerId) -> None:
    """Raise Forbidden if the server is one of the operator's file."""
    local = app.local_mcp.get(server_id)
    if local is not None:
        raise Forbidden(
            f"the operator of this server configures {local.name!r} in the file that PERDURE_MCP_SERVERS "
            "names: change it there",
            code="configured_by_operator",
        )


async def change_server(app: App, caller: Caller, server_id: McpServerId, body: UpdateMcpServer) -> McpServer:
    """Change the fields of a server that the body contains. Its slug stays."""
    require_manager(caller, "mcp_server")
    check_changeable(app, server_id)
    check_labels(body, "name")
    if body.status == "deleted":
        raise InvalidInput(
            "`status` cannot become `deleted` by a change: send POST /v1/mcp-servers/{id}/delete",
            field="status",
        )
    if body.url is not UNSET:
        await check_urls({"url": body.url}, app.private_addresses)
    now = app.now()

    async def work(tx: Tx) -> McpServer:
        row = await get_mcp_server(tx, caller.organization_id, server_id, lock=True)
        if is_same(body):
            return to_server(row)
        changes: Changes = {
            name: getattr(body, name)
            for name in ("name", "description", "status")
            if getattr(body, name) is not UNSET
        }
        if "status" in changes:
            changes["archived_at"] = (row.archived_at or now) if body.status == "archived" else None
        before = stored_settings(row, await open_mcp_secrets(app.vault, tx, row))
        after = changed_settings(before, body)
        _check_size(after)
        changes |= {
            "url": after.url,
            "auth_mode": after.auth_mode,
            "protocol_mode": after.protocol_mode,
            "rules": to_json(after.rules),
        }
        if (after.secrets, after.shown, after.client) != (before.secrets, before.shown, before.client):
            changes |= (await _seal(app, tx, row.org_id, row.id, after)).columns()
        changes["updated_at"] = max(now, row.updated_at + 1)
        await update_mcp_server(tx, row.org_id, row.id, changes)
        if (after.url, after.client.client_id) != (before.url, before.client.client_id):
            await remove_connections_of_server(tx, row.org_id, row.id)
        return to_server(msgspec.structs.replace(row, **changes))

    changed = await app.database.write(work)
    forget_tools(app, caller, server_id)
    return changed


def forget_tools(app: App, caller: Caller, server_id: McpServerId) -> None:
    """List a server's tools anew in the next turns of this process; others do so after a minute."""
    app.registry.discoveries.forget(caller.organization_id, f"{MCP_REF}{server_id}")


async def archive_server(app: App, caller: Caller, server_id: McpServerId) -> None:
    """Archive a server: lists hide it, and its tools are not offered any more.

    Agents and sessions that refer to it go on without its tools.
    """
    require_manager(caller, "mcp_server")
    check_changeable(app, server_id)
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await get_mcp_server(tx, caller.organization_id, server_id, lock=True)
        if row.status != "archived":
            changes: Changes = {
                "status": "archived",
                "archived_at": now,
                "updated_at": max(now, row.updated_at + 1),
            }
            await update_mcp_server(tx, row.org_id, row.id, changes)

    await app.database.write(work)
    forget_tools(app, caller, server_id)


async def destroy_server(app: App, caller: Caller, server_id: McpServerId) -> None:
    """Delete a server for good, with its secrets. References to it have no effect any more."""
    require_manager(caller, "mcp_server")
    check_changeable(app, server_id)

    async def work(tx: Tx) -> None:
        row = await get_mcp_server(tx, caller.organization_id, server_id, lock=True)
        await delete_mcp_server(tx, row.org_id, row.id)
        await remove_connections_of_server(tx, row.org_id, row.id)
        await drop_pins(tx, row.org_id, row.id)

    await app.database.write(work)
    forget_tools(app, caller, server_id)


async def label_tool(
    app: App, caller: Caller, server_id: McpServerId, tool_name: str, body: SetMcpToolLabel
) -> McpToolLabel:
    """Set the name of a server's tool for people, or remove it."""
    require_manager(caller, "mcp_server")
    check_changeable(app, server_id)
    check_labels(body, "label")
    label = body.label if isinstance(body.label, str) else None
    if not 0 < len(tool_name) <= 200:
        raise InvalidInput("`tool_name` must have 1 to 200 characters", field="tool_name")
    now = app.now()

    async def work(tx: Tx) -> McpToolLabel:
        row = await get_mcp_server(tx, caller.organization_id, server_id, lock=True)
        labels = {name: text for name, text in row.label_map().items() if name != tool_name}
        if label is not None:
            labels[tool_name] = label
        if len(labels) > MAX_LABELS:
            raise InvalidInput(f"a server has at most {MAX_LABELS} labels: remove some first", field="label")
        changes: Changes = {"labels": to_json(labels), "updated_at": max(now, row.updated_at + 1)}
        await update_mcp_server(tx, row.org_id, row.id, changes)
        return McpToolLabel(tool_name, label)

    labelled = await app.database.write(work)
    forget_tools(app, caller, server_id)
    return labelled
