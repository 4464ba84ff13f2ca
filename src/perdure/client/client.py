"""The public Python client: async and typed, with safe retries and streams that survive a server restart."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

import msgspec

from perdure.client import routes
from perdure.client.errors import TurnFailed
from perdure.client.event_cursor import EventCursor
from perdure.client.follow import IDLE_TIMEOUT, PATIENCE, TurnWatch, follow
from perdure.client.routes import Caller, path_of
from perdure.client.transport import RETRIES, Transport
from perdure.domain.accounts import Identity
from perdure.domain.agents import Agent, CreateAgent, UpdateAgent
from perdure.domain.capabilities import CapabilityInfo
from perdure.domain.event_pages import EventPage
from perdure.domain.events import ENDED_TURN, EVENT_DATA, LIVE_TYPES, WireEvent, decode_data
from perdure.domain.harnesses import CreateHarness, Harness
from perdure.domain.messages import (
    Controls,
    CreateMessage,
    ExternalActor,
    InputMessage,
    InputPart,
    JsonObject,
    Message,
    TextPart,
    text_of,
)
from perdure.domain.paging import Page
from perdure.domain.providers import (
    CreateModel,
    CreateProvider,
    Model,
    Provider,
    SyncedModels,
    SyncNotSupported,
    UpdateModel,
    UpdateProvider,
)
from perdure.domain.sessions import (
    CancelledTurn,
    CreateSession,
    ListOrder,
    Session,
    Status,
    UpdateSession,
)
from perdure.domain.tools import (
    ApprovalDecision,
    SubmitApprovals,
    SubmittedToolResults,
    SubmitToolResults,
    ToolCallResult,
)

_SESSION = "/v1/sessions/{}"


def _several(values: str | Iterable[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)


class Client(Caller):
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
    ) -> None:
        self.transport = Transport(base_url, token, organization, timeout=timeout, retries=retries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self.transport.close()

    async def health(self) -> JsonObject:
        """Return the health of the server: version, database, queue. Needs no credentials."""
        return await self.call("GET", "/health", JsonObject)

    async def identity(self) -> Identity:
        """Return who the caller is: user, organization, role and scopes."""
        return await self.call("GET", "/v1/auth/me", Identity)

    # --- sessions -------------------------------------------------------------

    create_session = routes.creates("/v1/sessions", CreateSession, Session, "Create a session.")
    get_session = routes.reads(_SESSION, Session, "Return a session.")
    update_session = routes.updates(
        _SESSION, UpdateSession, Session, "Change a session, at any time, even during a turn."
    )
    delete_session = routes.sends(
        "DELETE", _SESSION, "Delete a session permanently, after cancelling its running turn."
    )
    pin_session = routes.sends("PUT", f"{_SESSION}/pin", "Pin a session for the calling user.")
    unpin_session = routes.sends("DELETE", f"{_SESSION}/pin", "Unpin a session for the calling user.")

    async def archive_session(self, session_id: str) -> Session:
        """Archive a session: lists leave it out until a message brings it back. Idempotent."""
        return await self.call("PUT", path_of(f"{_SESSION}/archive", session_id), Session)

    async def unarchive_session(self, session_id: str) -> Session:
        """Bring a session back from the archive. Idempotent."""
        return await self.call("DELETE", path_of(f"{_SESSION}/archive", session_id), Session)

    async def list_sessions(
        self,
        *,
        agent_id: str | None = None,
        search: str | None = None,
        tags: Iterable[str] = (),
        status: Status | Iterable[Status] = (),
        pinned: bool | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        source: str | Iterable[str] = (),
        metadata: Mapping[str, str] | None = None,
        mine: bool | None = None,
        include_archived: bool | None = None,
        archived_only: bool | None = None,
        order: ListOrder | None = None,
        offset: int = 0,
        limit: int = 20,
    ) -> Page[Session]:
        """List sessions, newest first, without archived ones.

        Args:
            agent_id: only sessions of this agent.
            search: a part of the title, case-insensitive.
            tags: only sessions that have all these tags.
            status: only sessions with this status, or one of these.
            pinned: only sessions that the calling user has pinned, or has not.
            created_after: an RFC 3339 time.
            created_before: an RFC 3339 time.
            source: only sessions from this source (`chat`, `api`), or one of these.
            metadata: only sessions that have all these entries.
            mine: only sessions that the calling user created.
            include_archived: archived sessions as well.
            archived_only: archived sessions only.
            order: `last_activity` for the last changed first.
            offset: how many sessions to skip.
            limit: the page size, 1 to 100.
        """
        params = [
            ("agent_id", agent_id),
            ("search", search),
            *(("tags", tag) for tag in tags),
            *(("status", each) for each in _several(status)),
            *(("source", each) for each in _several(source)),
            *((f"metadata[{name}]", text) for name, text in (metadata or {}).items()),
            ("mine", mine),
            ("include_archived", include_archived),
            ("archived_only", archived_only),
            ("order", order),
            ("pinned", pinned),
            ("created_after", created_after),
            ("created_before", created_before),
            ("offset", offset),
            ("limit", limit),
        ]
        return await self.call("GET", "/v1/sessions", Page[Session], params=params)

    async def iterate_sessions(self, **filters: Any) -> AsyncGenerator[Session, None]:
        """Iterate over all sessions that match the filters of `list_sessions`, page by page.

        This does not return sessions that are created meanwhile. If one is deleted meanwhile, another may be
        skipped.
        """
        offset = 0
        before: frozenset[str] = frozenset()
        while True:
            page = await self.list_sessions(**{"limit": 100, **filters, "offset": offset})
            for session in page.data:
                # A new session moves the last one of this page to the next page.
                if session.id not in before:
                    yield session
            offset += len(page.data)
            before = frozenset(session.id for session in page.data)
            if not page.data or offset >= page.total:
                return

    async def cancel(self, session_id: str) -> CancelledTurn:
        """Cancel the running turn. The result's `status` is `no_op` if no turn was running."""
        return await self.call("POST", path_of(f"{_SESSION}/cancel", session_id), CancelledTurn)

    # --- messages and events --------------------------------------------------

    async def send_message(
        self,
        session_id: str,
        content: str | Sequence[InputPart],
        *,
        controls: Controls | None = None,
        metadata: JsonObject | None = None,
        tags: Sequence[str] | None = None,
        external_actor: ExternalActor | None = None,
        idempotency_key: str | None = None,
        client_message_id: str | None = None,
    ) -> Message:
        """Send a message: it starts a turn, or steers the running one.

        The server has stored the message when this returns.

        Args:
            session_id: the session's id.
            content: text, or parts.
            controls: choices for this turn (`model_id`, `reasoning`), and `when_busy`: whether the message
                steers a running turn (the default), waits for its own, is refused, or interrupts it.
            metadata: JSON to store with the message.
            tags: the message's tags.
            external_actor: the author in another system, if the message comes from there.
            idempotency_key: the server accepts a message with the same key once and repeats its first answer
                after that. By default the client generates a key, which makes its own retries safe; pass a
                key to make your retries safe too.
            client_message_id: your own id of the message, which the session remembers for good: sending the
                same message again returns the first one.
        """
        parts = (TextPart(content),) if isinstance(content, str) else tuple(content)
        body = CreateMessage(
            InputMessage(parts),
            controls,
            metadata,
            None if tags is None else tuple(tags),
            external_actor,
            client_message_id,
        )
        return await self.call(
            "POST",
            path_of(f"{_SESSION}/messages", session_id),
            Message,
            body=body,
            once=idempotency_key or routes.new_key(),
        )

    list_messages = routes.lists_under(
        f"{_SESSION}/messages", Message, "List a session's messages, oldest first."
    )

    async def list_events(
        self,
        session_id: str,
        *,
        since_id: str | None = None,
        types: Iterable[str] = (),
        exclude: Iterable[str] = (),
        after_sequence: int | None = None,
        before_sequence: int | None = None,
        turn_id: str | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> tuple[WireEvent, ...]:
        """List a part of the session's log, oldest first unless `newest_first` is set.

        Args:
            session_id: the session's id.
            since_id: only events after the one with this id. Cannot be combined with `after_sequence` or
                `before_sequence`.
            types: only events of these types.
            exclude: only events of other types.
            after_sequence: only events with a higher sequence.
            before_sequence: only events with a lower sequence.
            turn_id: only events of this turn.
            newest_first: reverse the order.
            limit: how many events to return, 1 to 1000.
        """
        fixed = [
            ("since_id", since_id),
            *(("types", kind) for kind in types),
            *(("exclude", kind) for kind in exclude),
            ("turn_id", turn_id),
            ("order_desc", "true" if newest_first else None),
        ]
        path = path_of(f"{_SESSION}/events", session_id)
        cursor = EventCursor(after_sequence, before_sequence, newest_first, limit)
        while not cursor.done:
            cursor.add(await self.call("GET", path, EventPage, params=[*fixed, *cursor.params()]))
        return cursor.events()

    async def last_event_id(self, session_id: str) -> str | None:
        """Return the id of the log's last event. Pass it to `follow` as `since_id` to get only new events."""
        events = await self.list_events(session_id, newest_first=True, limit=1)
        return events[0].id if events else None

    def follow(
        self,
        session_id: str,
        since_id: str | None = None,
        types: Sequence[str] = (),
        exclude: Sequence[str] = (),
        *,
        idle_timeout: float = IDLE_TIMEOUT,
        patience: float = PATIENCE,
    ) -> AsyncGenerator[WireEvent, None]:
        """Yield the session's events after `since_id` (by default all), then new ones as they happen.

        This never ends. It reconnects automatically and resumes at its position: no logged event is lost or
        repeated. Live events (`output.message.delta` ...) may be lost or repeated around a reconnection; each
        contains the whole text so far.

        Args:
            session_id: the session's id.
            since_id: the id of the last event that the caller has seen.
            types: only events of these types.
            exclude: only events of other types.
            idle_timeout: seconds without a byte after which a connection counts as dead.
            patience: seconds without any answer after which this raises `Unreachable`.
        """
        path = path_of(f"{_SESSION}/sse", session_id)
        return follow(
            self.transport, path, since_id, types, exclude, idle_timeout=idle_timeout, patience=patience
        )

    async def run(
        self, session_id: str, content: str | Sequence[InputPart], *, controls: Controls | None = None
    ) -> AsyncGenerator[WireEvent, None]:
        """Send a message and yield events, from the message itself to the event that ends its turn.

        When the session waits for its client, this yields `tool.call_requested`. Answer it with
        `submit_tool_results`, or with `submit_tool_approvals` if it asks for approval, inside the loop or
        elsewhere; then the turn continues.
        """
        since = await self.last_event_id(session_id)
        message = await self.send_message(session_id, content, controls=controls)
        watch = TurnWatch(message.id)
        # The server adds the whole prompt to each `llm.generation` that it sends; callers rarely need it.
        async with aclosing(self.follow(session_id, since, exclude=("llm.generation",))) as events:
            async for event in events:
                if watch.take(event):
                    yield event
                    if watch.is_last(event):
                        return

    async def ask(
        self, session_id: str, content: str | Sequence[InputPart], *, controls: Controls | None = None
    ) -> str:
        """Send a message and return the text of the answer.

        Raises:
            TurnFailed: the turn failed, was cancelled or was sealed.
        """
        answer = ""
        async with aclosing(self.run(session_id, content, controls=controls)) as events:
            async for event in events:
                if event.type == "output.message.completed":
                    answer = text_of(data_of(event).message.content)
                elif (failure := turn_failure(event)) is not None:
                    raise failure
        return answer

    async def submit_tool_results(
        self, session_id: str, results: Iterable[ToolCallResult]
    ) -> SubmittedToolResults:
        """Submit the results of all pending client-side tool calls, each once."""
        path = path_of(f"{_SESSION}/tool-results", session_id)
        return await self.call("POST", path, SubmittedToolResults, body=SubmitToolResults(tuple(results)))

    async def submit_tool_approvals(
        self, session_id: str, decisions: Iterable[ApprovalDecision]
    ) -> SubmittedToolResults:
        """Decide some or all of the tool calls that wait for approval.

        `tool.call_requested` names them in its calls of `approve_tool_call`.
        """
        path = path_of(f"{_SESSION}/tool-approvals", session_id)
        return await self.call("POST", path, SubmittedToolResults, body=SubmitApprovals(tuple(decisions)))

    # --- agents, harnesses, capabilities --------------------------------------

    create_agent = routes.creates(
        "/v1/agents", CreateAgent, Agent, "Create an agent, or update the one with this id or name."
    )
    get_agent = routes.reads("/v1/agents/{}", Agent, "Return an agent.")
    update_agent = routes.updates("/v1/agents/{}", UpdateAgent, Agent, "Change an agent.")
    delete_agent = routes.sends("DELETE", "/v1/agents/{}", "Archive an agent: it starts no more turns.")

    async def list_agents(
        self,
        *,
        search: str | None = None,
        include_archived: bool | None = None,
        offset: int = 0,
        limit: int = 20,
    ) -> Page[Agent]:
        """List the organization's agents."""
        params = [
            ("search", search),
            ("include_archived", include_archived),
            ("offset", offset),
            ("limit", limit),
        ]
        return await self.call("GET", "/v1/agents", Page[Agent], params=params)

    create_harness = routes.creates("/v1/harnesses", CreateHarness, Harness, "Create a harness.")
    get_harness = routes.reads("/v1/harnesses/{}", Harness, "Return a harness.")
    list_harnesses = routes.lists(
        "/v1/harnesses", Harness, "List the organization's harnesses, including the built-in ones."
    )

    async def list_capabilities(
        self, *, search: str | None = None, offset: int = 0, limit: int = 100
    ) -> Page[CapabilityInfo]:
        """List the capabilities that sessions on this server can have."""
        params = [("search", search), ("offset", offset), ("limit", limit)]
        return await self.call("GET", "/v1/capabilities", Page[CapabilityInfo], params=params)

    # --- providers and models -------------------------------------------------

    create_provider = routes.creates("/v1/providers", CreateProvider, Provider, "Register a model provider.")
    get_provider = routes.reads("/v1/providers/{}", Provider, "Return a provider, without its key.")
    list_providers = routes.lists("/v1/providers", Provider, "List the organization's providers.")
    update_provider = routes.updates("/v1/providers/{}", UpdateProvider, Provider, "Change a provider.")
    delete_provider = routes.sends("DELETE", "/v1/providers/{}", "Remove a provider and its models.")

    async def sync_models(self, provider_id: str) -> SyncedModels | SyncNotSupported:
        """Sync with the provider's own list of models: register new models, hide the ones that are gone."""
        kind: Any = SyncedModels | SyncNotSupported
        result: SyncedModels | SyncNotSupported = await self.call(
            "POST", path_of("/v1/providers/{}/sync-models", provider_id), kind
        )
        return result

    create_model = routes.creates_under(
        "/v1/providers/{}/models", CreateModel, Model, "Register a provider's model."
    )
    list_provider_models = routes.lists_under("/v1/providers/{}/models", Model, "List a provider's models.")
    get_model = routes.reads("/v1/models/{}", Model, "Return a model.")
    list_models = routes.lists("/v1/models", Model, "List the models of all providers.")
    update_model = routes.updates("/v1/models/{}", UpdateModel, Model, "Change a model.")
    delete_model = routes.sends("DELETE", "/v1/models/{}", "Remove a model.")


def data_of(event: WireEvent) -> Any:
    """Decode an event's data into its struct from `perdure.domain.events`; plain JSON for an unknown type."""
    raw = bytes(event.data)
    return decode_data(event.type, raw) if event.type in EVENT_DATA else msgspec.json.decode(raw)


def is_live(event: WireEvent) -> bool:
    """Whether the event is live only, which means that it is not in the log."""
    return event.type in LIVE_TYPES


def turn_failure(event: WireEvent) -> TurnFailed | None:
    """Return the failure if this event ends a turn without an answer, else None."""
    if event.type not in ENDED_TURN or event.type == "turn.completed":
        return None
    data = data_of(event)
    if event.type == "turn.failed":
        return TurnFailed(event.type, data.turn_id, data.error, data.error_code or "turn_failed")
    reason = data.reason or "a caller requested it"
    ending = event.type.removeprefix("turn.")
    return TurnFailed(event.type, data.turn_id, f"the turn was {ending}: {reason}", f"turn_{ending}")
