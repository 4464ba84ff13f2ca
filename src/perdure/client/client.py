"""The public Python client.

Async, typed, safe to retry, able to follow a session through a server's restart.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

import msgspec

from perdure.client import routes
from perdure.client.errors import TurnFailed
from perdure.client.follow import IDLE_TIMEOUT, PATIENCE, TurnWatch, follow
from perdure.client.routes import Caller, path_of
from perdure.client.transport import RETRIES, Transport
from perdure.domain.agents import Agent, CreateAgent, UpdateAgent
from perdure.domain.capabilities import CapabilityInfo
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
from perdure.domain.paging import Listing, Page
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
from perdure.domain.sessions import CancelledTurn, CreateSession, Session, Status, UpdateSession
from perdure.domain.tools import (
    ApprovalDecision,
    SubmitApprovals,
    SubmittedToolResults,
    SubmitToolResults,
    ToolCallResult,
)

_SESSION = "/v1/sessions/{}"


class Client(Caller):
    """A connection to a Perdure server.

    Use it as `async with Client() as client:`, or call `close` at the end.

    One client serves any number of tasks at once, within one event loop.

    Args:
        base_url: of the server, with or without the path `/api`.
        token: an access token (`pdr_pat_...`), if the server requires one.
        organization: which one to work in, when the token's user belongs to several.
        timeout: seconds for connecting and for each read and write.
        retries: how often a request is sent again, at most; the seven of the default last some ten seconds,
            in which a server can start again. Sent again are requests that certainly did not arrive, that
            were turned away for now (429), or that do no harm when repeated: GET, PUT, DELETE, and what makes
            something new (sessions, messages ...), which carries an idempotency key.

    Every method raises `ApiError` (or one of its kinds) when the server refuses, `Unreachable` when nobody
    answers, `BadAnswer` when the answer is not a Perdure server's.
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
        """Give the connections back."""
        await self.transport.close()

    async def health(self) -> JsonObject:
        """How the server is: its version, its database, its queue. Needs no credentials."""
        return await self.call("GET", "/health", JsonObject)

    # --- sessions -------------------------------------------------------------

    create_session = routes.creates("/v1/sessions", CreateSession, Session, "Make a session.")
    get_session = routes.reads(_SESSION, Session, "The session.")
    update_session = routes.updates(
        _SESSION, UpdateSession, Session, "Change a session, at any time, also during a turn."
    )
    delete_session = routes.sends(
        "DELETE", _SESSION, "Delete a session for good; a running turn is cancelled first."
    )
    pin_session = routes.sends("PUT", f"{_SESSION}/pin", "Pin a session for the calling user.")
    unpin_session = routes.sends("DELETE", f"{_SESSION}/pin", "Take the calling user's pin off a session.")

    async def list_sessions(
        self,
        *,
        agent_id: str | None = None,
        search: str | None = None,
        tags: Iterable[str] = (),
        status: Status | None = None,
        pinned: bool | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        offset: int = 0,
        limit: int = 20,
    ) -> Page[Session]:
        """Sessions, newest first.

        Args:
            search: part of the title, in any case.
            tags: all of them must match.
            created_after: an RFC 3339 time, as `created_before`.
            limit: 1 to 100.
        """
        params = [
            ("agent_id", agent_id),
            ("search", search),
            *(("tags", tag) for tag in tags),
            ("status", status),
            ("pinned", pinned),
            ("created_after", created_after),
            ("created_before", created_before),
            ("offset", offset),
            ("limit", limit),
        ]
        return await self.call("GET", "/v1/sessions", Page[Session], params=params)

    async def iterate_sessions(self, **filters: Any) -> AsyncGenerator[Session, None]:
        """All sessions that match the filters of `list_sessions`, page by page.

        Sessions made in the meantime are not seen; one that is deleted in the meantime may hide another.
        """
        offset = 0
        before: frozenset[str] = frozenset()
        while True:
            page = await self.list_sessions(**{"limit": 100, **filters, "offset": offset})
            for session in page.data:
                # New sessions push known ones on to the next page.
                if session.id not in before:
                    yield session
            offset += len(page.data)
            before = frozenset(session.id for session in page.data)
            if not page.data or offset >= page.total:
                return

    async def cancel(self, session_id: str) -> CancelledTurn:
        """Stop the running turn. `status` is `no_op` when none was running."""
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
    ) -> Message:
        """Send a message: it starts a turn, or steers the running one.

        When this returns, the message is on disk.

        Args:
            content: text, or parts.
            controls: choices for this turn (`model_id`, `reasoning`).
            idempotency_key: the server takes a message with the same key once, and answers a repetition as it
                did first. One is made up when none is given, so that the client's own retries are safe; give
                one to make yours safe too.
        """
        parts = (TextPart(content),) if isinstance(content, str) else tuple(content)
        body = CreateMessage(
            InputMessage(parts), controls, metadata, None if tags is None else tuple(tags), external_actor
        )
        return await self.call(
            "POST",
            path_of(f"{_SESSION}/messages", session_id),
            Message,
            body=body,
            once=idempotency_key or routes.new_key(),
        )

    list_messages = routes.lists_under(
        f"{_SESSION}/messages", Message, "The session's messages, oldest first."
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
        """A slice of the session's log, oldest first unless asked otherwise.

        Args:
            since_id: an event's id; the slice begins after it. Exclusive of `after_sequence` and
                `before_sequence`.
            limit: 1 to 1000.
        """
        params = [
            ("since_id", since_id),
            *(("types", kind) for kind in types),
            *(("exclude", kind) for kind in exclude),
            ("after_sequence", after_sequence),
            ("before_sequence", before_sequence),
            ("turn_id", turn_id),
            ("order_desc", "true" if newest_first else None),
            ("limit", limit),
        ]
        path = path_of(f"{_SESSION}/events", session_id)
        return (await self.call("GET", path, Listing[WireEvent], params=params)).data

    async def last_event_id(self, session_id: str) -> str | None:
        """Where the log ends now: what `follow` takes as `since_id` to see only what is new."""
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
        """The session's events after `since_id` (without it, all), then new ones as they happen, for ever.

        Reconnects by itself and goes on where it stood: no logged event is missed or comes twice. Live pieces
        (`output.message.delta` ...) may be missed or repeated around a reconnection; each carries the text so
        far.

        Args:
            types: only these.
            exclude: all but these.
            idle_timeout: seconds without a byte until a connection counts as dead.
            patience: seconds without any answer until this gives up with `Unreachable`.
        """
        path = path_of(f"{_SESSION}/sse", session_id)
        return follow(
            self.transport, path, since_id, types, exclude, idle_timeout=idle_timeout, patience=patience
        )

    async def run(
        self, session_id: str, content: str | Sequence[InputPart], *, controls: Controls | None = None
    ) -> AsyncGenerator[WireEvent, None]:
        """Send a message and hand out what happens, from the message itself to the event that ends its turn.

        A session that waits for its client shows `tool.call_requested`. Answer it with `submit_tool_results`,
        or with `submit_tool_approvals` if it asks for approval, inside the loop or elsewhere, and the turn
        continues.
        """
        since = await self.last_event_id(session_id)
        message = await self.send_message(session_id, content, controls=controls)
        watch = TurnWatch(message.id)
        # The prompt of each model call is filled in when it is read: long, and nobody asked for it here.
        async with aclosing(self.follow(session_id, since, exclude=("llm.generation",))) as events:
            async for event in events:
                if watch.take(event):
                    yield event
                    if watch.is_last(event):
                        return

    async def ask(
        self, session_id: str, content: str | Sequence[InputPart], *, controls: Controls | None = None
    ) -> str:
        """Send a message and wait for the answer.

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
        """Answer the open client-side tool calls: all of them, each once."""
        path = path_of(f"{_SESSION}/tool-results", session_id)
        return await self.call("POST", path, SubmittedToolResults, body=SubmitToolResults(tuple(results)))

    async def submit_tool_approvals(
        self, session_id: str, decisions: Iterable[ApprovalDecision]
    ) -> SubmittedToolResults:
        """Decide on tool calls that are held back, some or all of them.

        `tool.call_requested` has asked with `approve_tool_call`.
        """
        path = path_of(f"{_SESSION}/tool-approvals", session_id)
        return await self.call("POST", path, SubmittedToolResults, body=SubmitApprovals(tuple(decisions)))

    # --- agents, harnesses, capabilities --------------------------------------

    create_agent = routes.creates(
        "/v1/agents", CreateAgent, Agent, "Make an agent, or update the one with this id or name."
    )
    get_agent = routes.reads("/v1/agents/{}", Agent, "The agent.")
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
        """Agents of the organization."""
        params = [
            ("search", search),
            ("include_archived", include_archived),
            ("offset", offset),
            ("limit", limit),
        ]
        return await self.call("GET", "/v1/agents", Page[Agent], params=params)

    create_harness = routes.creates("/v1/harnesses", CreateHarness, Harness, "Make a harness.")
    get_harness = routes.reads("/v1/harnesses/{}", Harness, "The harness.")
    list_harnesses = routes.lists(
        "/v1/harnesses", Harness, "Harnesses of the organization, the built-in ones too."
    )

    async def list_capabilities(
        self, *, search: str | None = None, offset: int = 0, limit: int = 100
    ) -> Page[CapabilityInfo]:
        """What this server can give a session."""
        params = [("search", search), ("offset", offset), ("limit", limit)]
        return await self.call("GET", "/v1/capabilities", Page[CapabilityInfo], params=params)

    # --- providers and models -------------------------------------------------

    create_provider = routes.creates(
        "/v1/providers", CreateProvider, Provider, "Register a provider of models."
    )
    get_provider = routes.reads("/v1/providers/{}", Provider, "The provider; its key is never shown.")
    list_providers = routes.lists("/v1/providers", Provider, "Providers of the organization.")
    update_provider = routes.updates("/v1/providers/{}", UpdateProvider, Provider, "Change a provider.")
    delete_provider = routes.sends("DELETE", "/v1/providers/{}", "Remove a provider and its models.")

    async def sync_models(self, provider_id: str) -> SyncedModels | SyncNotSupported:
        """Read the provider's own list of models: new ones are registered, those that are gone hidden."""
        kind: Any = SyncedModels | SyncNotSupported
        done: SyncedModels | SyncNotSupported = await self.call(
            "POST", path_of("/v1/providers/{}/sync-models", provider_id), kind
        )
        return done

    create_model = routes.creates_under(
        "/v1/providers/{}/models", CreateModel, Model, "Register a provider's model."
    )
    list_provider_models = routes.lists_under("/v1/providers/{}/models", Model, "A provider's models.")
    get_model = routes.reads("/v1/models/{}", Model, "The model.")
    list_models = routes.lists("/v1/models", Model, "Models of all providers.")
    update_model = routes.updates("/v1/models/{}", UpdateModel, Model, "Change a model.")
    delete_model = routes.sends("DELETE", "/v1/models/{}", "Remove a model.")


def data_of(event: WireEvent) -> Any:
    """An event's data as its struct from `perdure.domain.events`.

    Plain JSON for a kind that is not known there.
    """
    raw = bytes(event.data)
    return decode_data(event.type, raw) if event.type in EVENT_DATA else msgspec.json.decode(raw)


def is_live(event: WireEvent) -> bool:
    """Whether the event only passes by: it is shown while it happens, and not in the log."""
    return event.type in LIVE_TYPES


def turn_failure(event: WireEvent) -> TurnFailed | None:
    """The failure that an event announces, if it ends a turn without an answer."""
    if event.type not in ENDED_TURN or event.type == "turn.completed":
        return None
    data = data_of(event)
    if event.type == "turn.failed":
        return TurnFailed(event.type, data.turn_id, data.error, data.error_code or "turn_failed")
    reason = data.reason or "somebody asked for it"
    word = event.type.removeprefix("turn.")
    return TurnFailed(event.type, data.turn_id, f"the turn was {word}: {reason}", f"turn_{word}")
