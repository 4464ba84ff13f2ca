"""Routes of MCP servers."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.api.routes.agents import Search
from perdure.app import mcp_offers, session_mcp
from perdure.app import mcp_servers as use
from perdure.domain.ids import McpServerId, SessionId
from perdure.domain.mcp_servers import CreateMcpServer, McpServer, UpdateMcpServer
from perdure.domain.mcp_views import McpCheck, McpToolLabel, McpToolList, SessionMcpServer, SetMcpToolLabel
from perdure.domain.paging import Listing
from perdure.domain.resources import ResourceConfig, policies_of

_SERVER = {"name": "Issues", "url": "https://mcp.example.com/mcp", "api_key": "a key"}


class ListMcpServers(Struct, frozen=True):
    """Query parameters of the list of MCP servers."""

    search: Annotated[
        Search | None,
        Meta(description="Text to find in the name, the URL or the description, case-insensitive."),
    ] = None
    include_archived: Annotated[bool, Meta(description="Whether to include archived servers.")] = False


@route("POST", "/v1/mcp-servers", "mcp servers", status=201, body_example=_SERVER)
async def create_mcp_server(call: Call, body: CreateMcpServer) -> McpServer:
    """Register an MCP server.

    Agents, harnesses and sessions use it with the capability `mcp:{id}`. The API key and the values of
    headers are stored encrypted and never returned. Private addresses are refused unless the setting
    `PERDURE_PRIVATE_ADDRESSES` allows them. Requires the role `admin`.
    """
    return await use.create_server(call.app, call.caller, body, call.once)


@route("GET", "/v1/mcp-servers", "mcp servers")
async def list_mcp_servers(call: Call, query: ListMcpServers) -> Listing[McpServer]:
    """List MCP servers.

    First those that the operator configures, which every organization can use, then the organization's own,
    oldest first.
    """
    servers = await use.all_servers(call.app, call.caller, query.search, query.include_archived)
    return Listing(tuple(servers))


@route("GET", "/v1/mcp-servers/config", "mcp servers")
async def mcp_server_config(call: Call) -> ResourceConfig:
    """Get the caller's permissions on MCP servers.

    This depends on the caller's role in the organization.
    """
    return policies_of(call.caller.role, "mcp_server")


@route("GET", "/v1/mcp-servers/{server_id}", "mcp servers", errors=(404,))
async def get_mcp_server(call: Call, server_id: McpServerId) -> McpServer:
    """Get an MCP server.

    Its API key is never returned, and the stored values of headers read back as `***`.
    """
    return await use.read_server(call.app, call.caller, server_id)


@route(
    "PATCH", "/v1/mcp-servers/{server_id}", "mcp servers", errors=(404,), body_example={"status": "disabled"}
)
async def update_mcp_server(call: Call, server_id: McpServerId, body: UpdateMcpServer) -> McpServer:
    """Update an MCP server.

    Omitted fields keep their values. `headers` replaces all headers; the value `***` keeps the stored one. To
    change the host of `url`, send the API key and the headers again, or `null`: a stored secret is never sent
    to a new host. A new name does not change the names of the tools. Requires the role `admin`.
    """
    return await use.change_server(call.app, call.caller, server_id, body)


@route("DELETE", "/v1/mcp-servers/{server_id}", "mcp servers", errors=(404,))
async def delete_mcp_server(call: Call, server_id: McpServerId) -> None:
    """Archive an MCP server.

    Lists hide it, and its tools are not offered any more; agents and sessions that use it go on without
    them. `PATCH` it with the status `active` to restore it. Requires the role `admin`.
    """
    await use.archive_server(call.app, call.caller, server_id)


@route("POST", "/v1/mcp-servers/{server_id}/delete", "mcp servers", status=204, errors=(404,))
async def destroy_mcp_server(call: Call, server_id: McpServerId) -> None:
    """Delete an MCP server for good.

    Its API key and headers are deleted with it. Agents and sessions that use it go on without its tools.
    Requires the role `admin`.
    """
    await use.destroy_server(call.app, call.caller, server_id)


@route("GET", "/v1/mcp-servers/{server_id}/tools", "mcp servers", errors=(404, 502))
async def list_mcp_server_tools(call: Call, server_id: McpServerId) -> McpToolList:
    """List the tools of an MCP server.

    Asks the server now. Each tool has the name that models call it by, and what happens when they do: it
    runs, it asks for approval, or it is not offered. 502 if the server cannot be asked.
    """
    return await mcp_offers.tools_of_server(call.app, call.caller, server_id)


@route("POST", "/v1/mcp-servers/{server_id}/check-connection", "mcp servers", status=200, errors=(404,))
async def check_mcp_server_connection(call: Call, server_id: McpServerId) -> McpCheck:
    """Check the connection to an MCP server.

    Asks the server for its tools. The answer is 200 in any case: `ok` says whether it worked, and otherwise
    `error` says what is wrong and what to do.
    """
    return await mcp_offers.check_connection(call.app, call.caller, server_id)


@route(
    "PUT",
    "/v1/mcp-servers/{server_id}/tools/{tool_name}/label",
    "mcp servers",
    errors=(404,),
    body_example={"label": "New issue"},
)
async def set_mcp_tool_label(
    call: Call, server_id: McpServerId, tool_name: str, body: SetMcpToolLabel
) -> McpToolLabel:
    """Set the label of a tool.

    The label is the tool's name for people. `tool_name` is its name at the server, whether or not that
    offers it now. Requires the role `admin`.
    """
    return await use.label_tool(call.app, call.caller, server_id, tool_name, body)


@route("GET", "/v1/sessions/{session_id}/mcp-servers", "sessions", errors=(404,))
async def list_session_mcp_servers(call: Call, session_id: SessionId) -> Listing[SessionMcpServer]:
    """List a session's MCP servers.

    Those of its harness, of its agent and its own. A server of a higher level replaces one of the same name.
    """
    return Listing(tuple(await session_mcp.session_servers(call.app, call.caller, session_id)))


@route("DELETE", "/v1/sessions/{session_id}/mcp-servers/{server_name}", "sessions", errors=(404, 409))
async def remove_session_mcp_server(call: Call, session_id: SessionId, server_name: str) -> None:
    """Remove an MCP server from a session.

    `server_name` is the name of an inline server, or the id of a registered one. It takes effect with the
    next turn. A server that the session inherits cannot be removed.
    """
    await session_mcp.remove_session_server(call.app, call.caller, session_id, server_name)


ROUTES = (
    create_mcp_server,
    list_mcp_servers,
    mcp_server_config,
    get_mcp_server,
    update_mcp_server,
    delete_mcp_server,
    destroy_mcp_server,
    list_mcp_server_tools,
    check_mcp_server_connection,
    set_mcp_tool_label,
    list_session_mcp_servers,
    remove_session_mcp_server,
)
