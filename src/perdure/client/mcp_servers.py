"""MCP servers, and their use in sessions."""

from __future__ import annotations

from perdure.client import routes
from perdure.client.routes import Caller, listed, path_of
from perdure.domain.mcp_servers import CreateMcpServer, McpServer, UpdateMcpServer
from perdure.domain.mcp_views import (
    AcceptedMcpTool,
    AcceptMcpTool,
    McpCheck,
    McpPromptInfo,
    McpToolLabel,
    McpToolList,
    PostMcpPrompt,
    SessionMcpServer,
    SetMcpToolLabel,
)
from perdure.domain.messages import Message
from perdure.domain.resources import ResourceConfig

_SERVERS = "/v1/mcp-servers"
_SERVER = f"{_SERVERS}/{{}}"


class McpMethods(Caller):
    """The client's methods about MCP servers."""

    create_mcp_server = routes.creates(_SERVERS, CreateMcpServer, McpServer, "Register an MCP server.")
    get_mcp_server = routes.reads(_SERVER, McpServer, "Return an MCP server, without its key.")
    update_mcp_server = routes.updates(_SERVER, UpdateMcpServer, McpServer, "Change an MCP server.")
    delete_mcp_server = routes.sends("DELETE", _SERVER, "Archive an MCP server: its tools are not offered.")
    destroy_mcp_server = routes.sends("POST", f"{_SERVER}/delete", "Delete an MCP server for good.")
    check_mcp_server = routes.acts(
        "POST", f"{_SERVER}/check-connection", McpCheck, "Ask a server for its tools; say what is wrong."
    )
    list_mcp_server_tools = routes.reads(
        f"{_SERVER}/tools", McpToolList, "Return the tools that a server offers now."
    )
    get_mcp_server_config = routes.fetches(
        f"{_SERVERS}/config", ResourceConfig, "Return what the caller may do with MCP servers."
    )
    list_session_mcp_servers = routes.lists_under(
        "/v1/sessions/{}/mcp-servers", SessionMcpServer, "List the MCP servers that a session uses."
    )

    list_mcp_server_prompts = routes.lists_under(
        f"{_SERVER}/prompts", McpPromptInfo, "List the prompts that a server offers now."
    )
    post_mcp_prompt = routes.creates_under(
        "/v1/sessions/{}/mcp-prompts",
        PostMcpPrompt,
        Message,
        "Post a prompt of one of the session's servers.",
    )

    async def list_mcp_servers(
        self, *, search: str | None = None, include_archived: bool | None = None
    ) -> tuple[McpServer, ...]:
        """List the MCP servers that the organization can use.

        Args:
            search: a text that the name, the URL or the description contains.
            include_archived: also archived ones.
        """
        params = [("search", search), ("include_archived", include_archived)]
        return await listed(self, _SERVERS, McpServer, params)

    async def set_mcp_tool_label(self, server_id: str, tool_name: str, label: str | None) -> McpToolLabel:
        """Set the name of a server's tool for people; None removes it."""
        path = path_of(f"{_SERVER}/tools/{{}}/label", server_id, tool_name)
        return await self.call("PUT", path, McpToolLabel, body=SetMcpToolLabel(label))

    async def accept_mcp_tool(
        self, server_id: str, tool_name: str, definition: str | None = None
    ) -> AcceptedMcpTool:
        """Accept a changed tool, so that its calls ask for approval no more for that.

        Args:
            definition: the `definition` that was read; an error if it is another one by now.
        """
        path = path_of(f"{_SERVER}/tools/{{}}/accept", server_id, tool_name)
        return await self.call("POST", path, AcceptedMcpTool, body=AcceptMcpTool(definition))

    async def list_session_mcp_tools(self, session_id: str, server: str) -> McpToolList:
        """Return the tools that one of a session's servers offers now; `server` is its name, slug or id."""
        path = path_of("/v1/sessions/{}/mcp-servers/{}/tools", session_id, server)
        return await self.call("GET", path, McpToolList)

    async def accept_session_mcp_tool(
        self, session_id: str, server: str, tool_name: str, definition: str | None = None
    ) -> AcceptedMcpTool:
        """Accept a changed tool of one of a session's servers, as `accept_mcp_tool` does."""
        path = path_of("/v1/sessions/{}/mcp-servers/{}/tools/{}/accept", session_id, server, tool_name)
        return await self.call("POST", path, AcceptedMcpTool, body=AcceptMcpTool(definition))

    async def remove_session_mcp_server(self, session_id: str, name: str) -> None:
        """Remove an MCP server from a session: an inline one by its name, a registered one by its id."""
        path = path_of("/v1/sessions/{}/mcp-servers/{}", session_id, name)
        await self.transport.request("DELETE", path)
