"""Connections: sign-ins at MCP servers, and what tool calls ask people for."""

from __future__ import annotations

from perdure.client import routes
from perdure.client.routes import Caller, path_of
from perdure.domain.connections import ClientDocument, Connection, SignInLink, SignInProvider
from perdure.domain.input_requests import AnsweredInput, AnswerInput, InputRequest

_OWN = "/v1/user/connections"
_ORGANIZATION = "/v1/orgs/{}/organization-connections"


class ConnectionMethods(Caller):
    """The client's methods about connections. A provider is the id of an MCP server."""

    list_connections = routes.lists(
        _OWN, Connection, "List the caller's sign-ins: first those that tool calls wait for."
    )
    list_connection_providers = routes.lists(
        f"{_OWN}/providers", SignInProvider, "List the servers at which people sign in."
    )
    sign_in = routes.acts(
        "POST", f"{_OWN}/{{}}/sign-in", SignInLink, "Begin a sign-in: return the page to open in a browser."
    )
    delete_connection = routes.sends("DELETE", f"{_OWN}/{{}}", "Remove a sign-in, and revoke its tokens.")
    list_organization_connections = routes.lists_under(
        _ORGANIZATION, Connection, "List an organization's own sign-ins."
    )
    read_oauth_client = routes.fetches(
        "/.well-known/oauth-client", ClientDocument, "Return the server's OAuth client document."
    )
    list_input_requests = routes.lists_under(
        "/v1/sessions/{}/input-requests", InputRequest, "List what a session's tool calls ask people for."
    )

    async def sign_in_organization(self, org: str, provider: str) -> SignInLink:
        """Begin a sign-in of an organization: return the page to open in a browser."""
        return await self.call("POST", path_of(f"{_ORGANIZATION}/{{}}/sign-in", org, provider), SignInLink)

    async def delete_organization_connection(self, org: str, provider: str) -> None:
        """Remove an organization's own sign-in, and revoke its tokens."""
        await self.transport.request("DELETE", path_of(f"{_ORGANIZATION}/{{}}", org, provider))

    async def answer_input_request(
        self, session_id: str, input_id: str, answer: AnswerInput
    ) -> AnsweredInput:
        """Answer what a tool call asks for, so that it goes on.

        Args:
            answer: `AnswerInput("accept", {...})`, or `AnswerInput("decline")`.
        """
        path = path_of("/v1/sessions/{}/input-requests/{}", session_id, input_id)
        return await self.call("POST", path, AnsweredInput, body=answer)
