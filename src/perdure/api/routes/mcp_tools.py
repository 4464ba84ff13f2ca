"""Routes of MCP servers' tools and prompts."""

from __future__ import annotations

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.app import mcp_tools as use
from perdure.domain.ids import McpServerId, SessionId
from perdure.domain.mcp_views import (
    AcceptedMcpTool,
    AcceptMcpTool,
    McpPromptInfo,
    McpToolList,
    PostMcpPrompt,
)
from perdure.domain.messages import Message
from perdure.domain.paging import Listing


@route(
    "POST",
    "/v1/mcp-servers/{server_id}/tools/{tool_name}/accept",
    "mcp servers",
    status=200,
    errors=(404, 409, 502),
    body_example={},
)
async def accept_mcp_tool(
    call: Call, server_id: McpServerId, tool_name: str, body: AcceptMcpTool
) -> AcceptedMcpTool:
    """Accept a changed tool.

    A tool whose description, schema or annotations have changed asks for approval at each call until
    somebody accepts it. `tool_name` is its name at the server. Requires the role `admin`.
    """
    return await use.accept_tool(call.app, call.caller, server_id, tool_name, body)


@route("GET", "/v1/sessions/{session_id}/mcp-servers/{server_name}/tools", "sessions", errors=(404, 502))
async def list_session_mcp_tools(call: Call, session_id: SessionId, server_name: str) -> McpToolList:
    """List the tools of a session's MCP server.

    `server_name` is the server's name, its id, or the part of its tools' names after `mcp_`. Asks the server
    now, with the session's secrets. 502 if it cannot be asked.
    """
    return await use.tools_in_session(call.app, call.caller, session_id, server_name)


@route(
    "POST",
    "/v1/sessions/{session_id}/mcp-servers/{server_name}/tools/{tool_name}/accept",
    "sessions",
    status=200,
    errors=(404, 409, 502),
    body_example={},
)
async def accept_session_mcp_tool(
    call: Call, session_id: SessionId, server_name: str, tool_name: str, body: AcceptMcpTool
) -> AcceptedMcpTool:
    """Accept a changed tool of a session's MCP server.

    For a server of `mcpServers`. It holds for all sessions of the organization that use the same URL, so it
    requires the role `admin`.
    """
    return await use.accept_in_session(call.app, call.caller, session_id, server_name, tool_name, body)


@route("GET", "/v1/mcp-servers/{server_id}/prompts", "mcp servers", errors=(404, 502))
async def list_mcp_server_prompts(call: Call, server_id: McpServerId) -> Listing[McpPromptInfo]:
    """List the prompts of an MCP server.

    Asks the server now. 502 if it cannot be asked.
    """
    return Listing(tuple(await use.list_prompts(call.app, call.caller, server_id)))


@route(
    "POST",
    "/v1/sessions/{session_id}/mcp-prompts",
    "messages",
    status=201,
    errors=(404, 409, 502),
    body_example={"server": "issues", "name": "triage", "arguments": {"project": "web"}},
)
async def post_mcp_prompt(call: Call, session_id: SessionId, body: PostMcpPrompt) -> Message:
    """Post a prompt of an MCP server.

    Gets the prompt from one of the session's servers and posts it as a message of the user, which starts a
    turn or steers the running one. 502 if the server cannot be asked.
    """
    return await use.post_prompt(call.app, call.caller, session_id, body, call.once)


ROUTES = (
    accept_mcp_tool,
    list_session_mcp_tools,
    accept_session_mcp_tool,
    list_mcp_server_prompts,
    post_mcp_prompt,
)
