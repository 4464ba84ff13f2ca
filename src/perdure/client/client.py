"""The public Python client: async and typed, with safe retries and streams that survive a server restart."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from perdure.client.accounts import AccountMethods
from perdure.client.agents import AgentMethods, AgentVersionMethods, CapabilityMethods, HarnessMethods
from perdure.client.audits import AuditMethods
from perdure.client.belongings import DatabaseMethods, ScheduleMethods, StorageMethods, WorkspaceMethods
from perdure.client.budgets import BudgetMethods
from perdure.client.connections import ConnectionMethods
from perdure.client.erasures import ErasureMethods
from perdure.client.files import FileMethods
from perdure.client.images import ImageMethods
from perdure.client.inbox import InboxMethods
from perdure.client.inbox_links import InboxLinkMethods
from perdure.client.mcp_servers import McpMethods
from perdure.client.memories import MemoryMethods
from perdure.client.models import ModelMethods
from perdure.client.operations import OperationMethods
from perdure.client.own_calls import OwnCalls
from perdure.client.sessions import SessionMethods
from perdure.client.skills import SkillMethods
from perdure.client.spend import SpendMethods
from perdure.client.transport import PROGRAM, RETRIES, Transport
from perdure.client.turns import TurnMethods
from perdure.client.webhooks import WebhookMethods
from perdure.domain.messages import JsonObject


class Client(
    SessionMethods,
    TurnMethods,
    FileMethods,
    ImageMethods,
    StorageMethods,
    ScheduleMethods,
    DatabaseMethods,
    WorkspaceMethods,
    MemoryMethods,
    AgentMethods,
    AgentVersionMethods,
    HarnessMethods,
    CapabilityMethods,
    ModelMethods,
    McpMethods,
    SkillMethods,
    ConnectionMethods,
    InboxMethods,
    InboxLinkMethods,
    WebhookMethods,
    BudgetMethods,
    SpendMethods,
    OperationMethods,
    AuditMethods,
    ErasureMethods,
    AccountMethods,
):
    """A client of one Perdure server.

    Use it as `async with Client() as client:`, or call `close` at the end.

    Any number of tasks may share one client within one event loop.

    Args:
        base_url: the server's URL, with or without the path `/api`.
        token: an access token (`pdr_pat_...`), if the server requires one.
        organization: the id of the organization to work in, if the token's user belongs to several.
        timeout: timeout in seconds for connecting and for each read and write.
        retries: the maximum number of retries per request. The default of seven takes about ten seconds,
            enough for a server to restart. The client retries requests that certainly did not arrive, that
            the server rejected for now (429), or that are idempotent: GET, PUT, DELETE, and requests that
            create something (sessions, messages ...), which carry an idempotency key.
        program: the program's name, which is sent as `User-Agent`, and logged with its decisions.
        reason: why this client changes things, for people who read the audit log later.

    Every method raises `ApiError` (or a subclass) when the server refuses the request, `Unreachable` when no
    server answers, and `BadAnswer` when the answer is not from a Perdure server.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:9000",
        token: str | None = None,
        organization: str | None = None,
        *,
        timeout: float = 30.0,
        retries: int = RETRIES,
        program: str = PROGRAM,
        reason: str | None = None,
    ) -> None:
        self.transport = Transport(
            base_url, token, organization, timeout=timeout, retries=retries, program=program, reason=reason
        )
        self.own_calls = OwnCalls(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel the tool calls that run in this program, and close all connections."""
        await self.own_calls.close()
        await self.transport.close()

    async def health(self) -> JsonObject:
        """Return the health of the server: version, database, queue. Needs no credentials."""
        return await self.call("GET", "/health", JsonObject)

    async def alive(self) -> JsonObject:
        """Return `{"status": "ok"}` if the process answers. Needs no credentials."""
        return await self.call("GET", "/health/live", JsonObject)

    async def ready(self) -> JsonObject:
        """Return whether the process should be sent requests. Needs no credentials.

        Raises:
            ApiError: 503: it was asked to stop, or its database cannot be written.
        """
        return await self.call("GET", "/health/ready", JsonObject)
