"""Where MCP servers are: what a caller must know to reach one."""

from __future__ import annotations

import hashlib

from msgspec import Struct

from perdure.domain.mcp_servers import ElicitationPolicy, McpProtocolMode
from perdure.domain.network import NetworkRules


class McpEndpoint(Struct, frozen=True):
    """A server that is reached over HTTP.

    Attributes:
        headers: sent with every request, without placeholders; credentials are among them.
        rules: which hosts and addresses may be reached.
        elicitation: which questions to users are passed on.
        identity: what stays the same when a token is refreshed. Sessions of the protocol are kept by it; by
            default, by the headers.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    protocol: McpProtocolMode = "auto"
    rules: NetworkRules = NetworkRules()
    elicitation: ElicitationPolicy = "none"
    identity: str = ""

    @property
    def key(self) -> str:
        """Under what its sessions are kept. It reveals no header."""
        who = self.identity or repr(self.headers)
        rules = repr(self.rules)
        named = f"{self.url}\0{who}\0{rules}\0{self.protocol}\0{self.elicitation}"
        return hashlib.sha256(named.encode("utf-8", "replace")).hexdigest()


class McpStdioEndpoint(Struct, frozen=True):
    """A local command that the operator has configured; it speaks over its standard input and output.

    Attributes:
        env: added to the few variables that every command gets.
        cwd: the folder it runs in.
    """

    name: str
    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None
    protocol: McpProtocolMode = "auto"
    elicitation: ElicitationPolicy = "none"
