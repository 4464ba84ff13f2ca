"""Sessions: the resource on the wire, what clients may write, and the projection that is folded from the
log.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.accounts import PrincipalSummary
from perdure.domain.errors import InvalidInput
from perdure.domain.events import NewEvent, is_cancel_notice
from perdure.domain.ids import AgentId, AgentVersionId, HarnessId, OrgId, SessionId, TurnId, Uuid, WorkspaceId
from perdure.domain.messages import JsonObject, Usage, preview_of, text_of
from perdure.domain.paging import AllowedAction
from perdure.domain.times import Micros, Timestamp
from perdure.domain.tools import APPROVE, Capabilities, CapabilityRef, ToolDefinition, Tools

Status = Literal["started", "active", "idle", "waiting_for_tool_results", "paused"]

MAX_TITLE = 500
MAX_TAGS = 50
MAX_TAG = 100
"""Limits of the wire contract, in characters and tags."""

Title = Annotated[str, Meta(max_length=MAX_TITLE, examples=["Refund of order 4711"])]
Tags = Annotated[tuple[str, ...], Meta(max_length=MAX_TAGS, examples=[["support", "priority"]])]
Locale = Annotated[
    str, Meta(max_length=35, pattern=r"^[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*$", examples=["en-GB"])
]
"""A BCP 47 language tag; 35 characters is the length RFC 5646 (4.4.1) advises to allow."""
Prompt = Annotated[str, Meta(max_length=200_000)]


class InitialFile(Struct, frozen=True, omit_defaults=True):
    """A file that a session starts with. `encoding` is `text` or `base64`."""

    path: Annotated[str, Meta(min_length=1, max_length=1024)]
    content: str
    encoding: Literal["text", "base64"] = "text"
    is_readonly: bool = False


HostPattern = Annotated[
    str, Meta(max_length=300, pattern=r"^(?![0-9A-Fa-f:.]+/[0-9]+\s*$)\s*[^\s/]", examples=["*.example.com"])
]
"""A host, `*.` and a host, or the address of a page there. A range of addresses would only count as its first
one."""


class NetworkAccess(Struct, frozen=True, omit_defaults=True):
    """Which hosts the session's tools may reach."""

    allowed: Annotated[tuple[HostPattern, ...], Meta(max_length=500)] = ()
    blocked: Annotated[tuple[HostPattern, ...], Meta(max_length=500)] = ()


class CreateSession(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/sessions`.

    All is optional: without a harness it is the agent's, else the organization's default.
    """

    harness_id: str | None = None
    harness_name: Annotated[str, Meta(max_length=64, examples=["generic"])] | None = None
    agent_id: str | None = None
    agent_name: Annotated[str, Meta(max_length=64)] | None = None
    title: Title | None = None
    tags: Tags = ()
    locale: Locale | None = None
    model_id: str | None = None
    capabilities: Capabilities = ()
    tools: Tools = ()
    system_prompt: Prompt | None = None
    max_iterations: Annotated[int, Meta(ge=1, le=1000)] | None = None
    parallel_tool_calls: bool | None = None
    initial_files: Annotated[tuple[InitialFile, ...], Meta(max_length=100)] = ()
    network_access: NetworkAccess | None = None
    hints: JsonObject | None = None
    workspace_id: str | None = None


class UpdateSession(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/sessions/{session_id}`: only the fields that are there change; null clears."""

    title: Title | None | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    locale: Locale | None | UnsetType = UNSET
    model_id: str | None | UnsetType = UNSET


class SessionConfig(Struct, frozen=True, omit_defaults=True):
    """What a session adds to its harness and agent, fixed when it is created."""

    capabilities: tuple[CapabilityRef, ...] = ()
    tools: tuple[ToolDefinition, ...] = ()
    system_prompt: str | None = None
    max_iterations: int | None = None
    parallel_tool_calls: bool | None = None
    initial_files: tuple[InitialFile, ...] = ()
    network_access: NetworkAccess | None = None
    hints: JsonObject | None = None


class Session(Struct, frozen=True, omit_defaults=True):
    """A session, as clients see it."""

    id: SessionId
    organization_id: OrgId
    harness_id: HarnessId
    owner_principal_id: str
    workspace_id: WorkspaceId
    status: Status
    created_at: Timestamp
    updated_at: Timestamp
    self_url: str
    view_url: str
    ui_link: str
    tags: tuple[str, ...]
    capabilities: tuple[CapabilityRef, ...]
    tools: tuple[ToolDefinition, ...]
    features: tuple[str, ...]
    agent_id: AgentId | None = None
    agent_version_id: AgentVersionId | None = None
    title: str | None = None
    locale: str | None = None
    model_id: str | None = None
    system_prompt: str | None = None
    max_iterations: int | None = None
    parallel_tool_calls: bool | None = None
    initial_files: tuple[InitialFile, ...] = ()
    network_access: NetworkAccess | None = None
    hints: JsonObject | None = None
    is_pinned: bool | None = None
    active_schedule_count: int | None = None
    preview: str | None = None
    output_preview: str | None = None
    usage: Usage | None = None
    forked_from_session_id: SessionId | None = None
    forked_from_sequence: int | None = None
    started_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    owner: PrincipalSummary | None = None
    effective_owner: PrincipalSummary | None = None
    resolved_owner_user_id: Uuid | None = None
    allowed_actions: tuple[AllowedAction, ...] = ()

    def editable(self) -> tuple[object, ...]:
        """What a client can change."""
        return tuple(getattr(self, name) for name in UpdateSession.__struct_fields__)


class ForkSession(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/sessions/{session_id}/fork`: what is left out is as in the original."""

    from_sequence: Annotated[int, Meta(ge=1, le=2_147_483_647)] | None = None
    title: Title | None = None
    tags: Tags | None = None
    agent_id: str | None = None
    model_id: str | None = None
    locale: Locale | None = None
    system_prompt: Prompt | None = None


class SessionStats(Struct, frozen=True):
    """How many sessions there are in each status."""

    total: int
    started: int
    active: int
    idle: int
    waiting_for_tool_results: int
    paused: int


class CancelledTurn(Struct, frozen=True):
    """The answer to a cancel: `no_op` when nothing was running."""

    status: Literal["cancelled", "no_op"]
    message: str


class Projection(Struct, frozen=True):
    """The part of a session's row that is a fold of its log; `rebuild` of the whole log gives the same.

    Attributes:
        head: the sequence of the last event; 0 for an empty log.
        turn_id: the turn that runs or waits, None between turns.
        turn_after: the sequence before the first event that the present or next turn depends on.
        wake_at: when a parked session has to be looked at again, or None.
    """

    head: int = 0
    status: Status = "started"
    turn_id: TurnId | None = None
    turn_after: int = 0
    wake_at: Micros | None = None
    preview: str | None = None
    output_preview: str | None = None
    usage: Usage | None = None
    started_at: Micros | None = None
    finished_at: Micros | None = None


def project(projection: Projection, events: Iterable[NewEvent]) -> Projection:
    """The projection after these events, which follow its head without a gap."""
    for event in events:
        projection = _project_one(projection, event)
    return projection


def _project_one(old: Projection, event: NewEvent) -> Projection:
    head = old.head + 1
    replace = msgspec.structs.replace
    data = event.data
    match event.type:
        case "input.message":
            message = data.message  # type: ignore[attr-defined]
            if is_cancel_notice(message, event):
                return replace(old, head=head)
            preview = old.preview if old.preview is not None else preview_of(text_of(message.content))
            if old.status in ("active", "waiting_for_tool_results"):
                return replace(old, head=head, status="active", preview=preview, wake_at=None)
            turn_id = event.context.turn_id
            return replace(
                old, head=head, status="active", turn_id=turn_id, turn_after=old.head, preview=preview
            )
        case "turn.started":
            # Sealed for good, until somebody tries again.
            return replace(
                old,
                head=head,
                turn_id=event.context.turn_id,
                started_at=old.started_at or event.ts,
                finished_at=None,
            )
        case "output.message.completed":
            text = preview_of(text_of(data.message.content))  # type: ignore[attr-defined]
            return replace(old, head=head, output_preview=text or old.output_preview)
        case "llm.generation":
            usage = data.metadata.usage  # type: ignore[attr-defined]
            return replace(old, head=head, usage=usage.plus(old.usage) if usage else old.usage)
        case "tool.call_requested":
            until = event.ts + data.timeout_ms * 1000  # type: ignore[attr-defined]
            return replace(old, head=head, status="waiting_for_tool_results", wake_at=until)
        case "tool.completed" if old.status == "waiting_for_tool_results":
            # A word on a question, or the rejection that it comes to, may leave others open:
            # `session.activated` follows the last.
            if data.tool_name == APPROVE or data.status == "rejected":  # type: ignore[attr-defined]
                return replace(old, head=head)
            return replace(old, head=head, status="active", wake_at=None)
        case "session.activated":
            return replace(old, head=head, status="active", wake_at=None)
        case "turn.sealed":
            return replace(old, head=head, turn_id=None, finished_at=event.ts)
        case "turn.completed" | "turn.failed" | "turn.cancelled":
            return replace(old, head=head, turn_id=None)
        case "session.idled":
            return replace(old, head=head, status="idle", turn_id=None, turn_after=head, wake_at=None)
    return replace(old, head=head)


def clean_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags trimmed, without duplicates, in order.

    Raises:
        InvalidInput: an empty tag, one over 100 characters, one with control characters, or more than 50.
    """
    seen: dict[str, None] = {}
    for index, tag in enumerate(tags):
        trimmed = tag.strip()
        where = f"tags[{index}]"
        if not trimmed:
            raise InvalidInput(f"`{where}` must not be empty", field=where)
        if len(trimmed) > MAX_TAG:
            raise InvalidInput(f"`{where}` must have at most {MAX_TAG} characters", field=where)
        if has_control(trimmed):
            raise InvalidInput(f"`{where}` must not hold control characters", field=where)
        seen[trimmed] = None
    if len(seen) > MAX_TAGS:
        raise InvalidInput(f"`tags` must have at most {MAX_TAGS} entries", field="tags")
    return tuple(seen)


def clean_title(title: str | None) -> str | None:
    """The title as it is.

    Raises:
        InvalidInput: it holds control characters.
    """
    if title is not None and has_control(title):
        raise InvalidInput("`title` must not hold control characters", field="title")
    return title


def has_control(text: str) -> bool:
    """Whether there is a C0 or C1 control character in the text."""
    return any(ch < " " or "\x7f" <= ch <= "\x9f" for ch in text) if not text.isprintable() else False


def action_links(session_id: SessionId, status: Status, pinned: bool) -> tuple[AllowedAction, ...]:
    """What the caller may do with a session in this status."""
    base = f"/v1/sessions/{session_id}"
    actions = [
        AllowedAction("self", "GET", base, "get_session"),
        AllowedAction("events", "GET", f"{base}/events", "list_events"),
        AllowedAction("update", "PATCH", base, "update_session"),
        AllowedAction("delete", "DELETE", base, "delete_session"),
        AllowedAction("unpin", "DELETE", f"{base}/pin", "unpin_session")
        if pinned
        else AllowedAction("pin", "PUT", f"{base}/pin", "pin_session"),
    ]
    if status in ("active", "waiting_for_tool_results"):
        actions.append(
            AllowedAction("cancel", "POST", f"{base}/cancel", "cancel_turn", "Stop the running turn")
        )
    return tuple(actions)
