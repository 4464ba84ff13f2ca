"""Ids: `<prefix>_<32 lower-case hex>`, which contains a UUIDv7 (RFC 9562, section 5.7).

An event's id also contains its sequence number, in 40 of the 62 bits that RFC 9562 leaves to the application,
so that an id is a cursor without a lookup. A live delta's id contains the sequence of the event before it.
"""

from __future__ import annotations

import random
import re
import time
from hashlib import blake2b
from typing import Annotated, Literal, NewType, Protocol, overload

from msgspec import Meta

from perdure.domain.errors import InvalidId

Prefix = Literal[
    "org", "user", "harness", "agent", "session", "message", "event", "turn", "exec", "model", "provider",
    "sched", "image", "task", "workspace", "principal", "file", "token", "agentver", "invitation",
    "callback", "mcp", "input", "webhook", "participant", "pushconfig", "delivery", "budget", "entry",
    "hold", "memory", "memver", "skill", "worker", "audit", "revision", "erasure",
]  # fmt: skip


def id_schema(prefix: Prefix) -> Meta:
    """Return the pattern of an id, for JSON Schemas only.

    Decoding does not check it. `check_id` does, with an error that names the field.
    """
    return Meta(extra_json_schema={"pattern": f"^{prefix}_[0-9a-f]{{32}}$"})


OrgId = NewType("OrgId", Annotated[str, id_schema("org")])
UserId = NewType("UserId", Annotated[str, id_schema("user")])
HarnessId = NewType("HarnessId", Annotated[str, id_schema("harness")])
AgentId = NewType("AgentId", Annotated[str, id_schema("agent")])
AgentVersionId = NewType("AgentVersionId", Annotated[str, id_schema("agentver")])
SessionId = NewType("SessionId", Annotated[str, id_schema("session")])
MessageId = NewType("MessageId", Annotated[str, id_schema("message")])
EventId = NewType("EventId", Annotated[str, id_schema("event")])
TurnId = NewType("TurnId", Annotated[str, id_schema("turn")])
ExecId = NewType("ExecId", Annotated[str, id_schema("exec")])
ModelId = NewType("ModelId", Annotated[str, id_schema("model")])
ProviderId = NewType("ProviderId", Annotated[str, id_schema("provider")])
ScheduleId = NewType("ScheduleId", Annotated[str, id_schema("sched")])
WorkspaceId = NewType("WorkspaceId", Annotated[str, id_schema("workspace")])
PrincipalId = NewType("PrincipalId", Annotated[str, id_schema("principal")])
FileId = NewType("FileId", Annotated[str, id_schema("file")])
TokenId = NewType("TokenId", Annotated[str, id_schema("token")])
InvitationId = NewType("InvitationId", Annotated[str, id_schema("invitation")])
CallbackId = NewType("CallbackId", Annotated[str, id_schema("callback")])
McpServerId = NewType("McpServerId", Annotated[str, id_schema("mcp")])
InputRequestId = NewType("InputRequestId", Annotated[str, id_schema("input")])
TaskId = NewType("TaskId", Annotated[str, id_schema("task")])
WebhookId = NewType("WebhookId", Annotated[str, id_schema("webhook")])
ParticipantId = NewType("ParticipantId", Annotated[str, id_schema("participant")])
PushConfigId = NewType("PushConfigId", Annotated[str, id_schema("pushconfig")])
BudgetId = NewType("BudgetId", Annotated[str, id_schema("budget")])
MemoryId = NewType("MemoryId", Annotated[str, id_schema("memory")])
MemoryVersionId = NewType("MemoryVersionId", Annotated[str, id_schema("memver")])
SkillId = NewType("SkillId", Annotated[str, id_schema("skill")])
ImageId = NewType("ImageId", Annotated[str, id_schema("image")])
WorkerId = NewType("WorkerId", Annotated[str, id_schema("worker")])
AuditEntryId = NewType("AuditEntryId", Annotated[str, id_schema("audit")])
RevisionId = NewType("RevisionId", Annotated[str, id_schema("revision")])
ErasureId = NewType("ErasureId", Annotated[str, id_schema("erasure")])
ToolCallId = NewType("ToolCallId", str)
"""A tool call's id as the model wrote it; unique only within one answer."""

HarnessIdText = Annotated[str, id_schema("harness")]
AgentIdText = Annotated[str, id_schema("agent")]
AgentVersionIdText = Annotated[str, id_schema("agentver")]
TurnIdText = Annotated[str, id_schema("turn")]
ModelIdText = Annotated[str, id_schema("model")]
ProviderIdText = Annotated[str, id_schema("provider")]
WorkspaceIdText = Annotated[str, id_schema("workspace")]
PrincipalIdText = Annotated[str, id_schema("principal")]
ImageIdText = Annotated[str, id_schema("image")]
"""An id as plain text: for fields before `check_id`, and for kinds of ids without their own type."""
AgentRef = NewType("AgentRef", str)
"""An agent's id or name."""
HarnessRef = NewType("HarnessRef", str)
"""A harness's id or name."""
EntityRef = NewType("EntityRef", str)
"""The id or name of an agent or a harness."""

ID_PREFIXES: dict[object, Prefix] = {
    OrgId: "org", UserId: "user", HarnessId: "harness", AgentId: "agent", AgentVersionId: "agentver",
    SessionId: "session", MessageId: "message", EventId: "event", TurnId: "turn", ExecId: "exec",
    ModelId: "model", ProviderId: "provider", ScheduleId: "sched", WorkspaceId: "workspace",
    PrincipalId: "principal", FileId: "file", TokenId: "token",
    InvitationId: "invitation", CallbackId: "callback", McpServerId: "mcp", InputRequestId: "input",
    TaskId: "task", WebhookId: "webhook", ParticipantId: "participant", PushConfigId: "pushconfig",
    BudgetId: "budget", MemoryId: "memory", MemoryVersionId: "memver", SkillId: "skill", ImageId: "image",
    WorkerId: "worker", AuditEntryId: "audit", RevisionId: "revision", ErasureId: "erasure",
}  # fmt: skip
"""Id type -> its prefix."""
REFERENCE_PREFIXES: dict[object, tuple[Prefix, ...]] = {
    AgentRef: ("agent",),
    HarnessRef: ("harness",),
    EntityRef: ("agent", "harness"),
}
"""The prefixes of the id that a reference may be instead of a name."""

Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]

MAX_SEQUENCE = (1 << 31) - 1
"""The largest sequence: the wire contract types it as a 32-bit signed integer."""

_HEX = re.compile(r"[0-9a-f]{32}")
_SEQUENCE_BITS = 40
_TAIL_BITS = 22
# Ids are not secrets, and the system's random source is ten times slower. A separate generator, seeded by the
# system, is independent of any `random.seed` elsewhere, which could cause collisions.
_noise = random.Random().getrandbits  # noqa: S311


def _uuid7_hex(millis: int, random_a: int, random_b: int) -> str:
    value = (
        (millis & (1 << 48) - 1) << 80
        | 0x7 << 76
        | (random_a & 0xFFF) << 64
        | 0b10 << 62
        | random_b & (1 << 62) - 1
    )
    return f"{value:032x}"


def digest_call_id(call_id: str) -> ToolCallId:
    """Return a short id of letters and digits for a call id that cannot be kept or sent: always the same."""
    return ToolCallId(f"call_{blake2b(call_id.encode('utf-8', 'replace'), digest_size=12).hexdigest()}")


@overload
def new_id(prefix: Literal["org"], millis: int | None = None) -> OrgId: ...
@overload
def new_id(prefix: Literal["user"], millis: int | None = None) -> UserId: ...
@overload
def new_id(prefix: Literal["harness"], millis: int | None = None) -> HarnessId: ...
@overload
def new_id(prefix: Literal["agent"], millis: int | None = None) -> AgentId: ...
@overload
def new_id(prefix: Literal["agentver"], millis: int | None = None) -> AgentVersionId: ...
@overload
def new_id(prefix: Literal["session"], millis: int | None = None) -> SessionId: ...
@overload
def new_id(prefix: Literal["message"], millis: int | None = None) -> MessageId: ...
@overload
def new_id(prefix: Literal["event"], millis: int | None = None) -> EventId: ...
@overload
def new_id(prefix: Literal["turn"], millis: int | None = None) -> TurnId: ...
@overload
def new_id(prefix: Literal["exec"], millis: int | None = None) -> ExecId: ...
@overload
def new_id(prefix: Literal["model"], millis: int | None = None) -> ModelId: ...
@overload
def new_id(prefix: Literal["provider"], millis: int | None = None) -> ProviderId: ...
@overload
def new_id(prefix: Literal["sched"], millis: int | None = None) -> ScheduleId: ...
@overload
def new_id(prefix: Literal["workspace"], millis: int | None = None) -> WorkspaceId: ...
@overload
def new_id(prefix: Literal["image"], millis: int | None = None) -> ImageId: ...
@overload
def new_id(prefix: Literal["principal"], millis: int | None = None) -> PrincipalId: ...
@overload
def new_id(prefix: Literal["file"], millis: int | None = None) -> FileId: ...
@overload
def new_id(prefix: Literal["token"], millis: int | None = None) -> TokenId: ...
@overload
def new_id(prefix: Literal["invitation"], millis: int | None = None) -> InvitationId: ...
@overload
def new_id(prefix: Literal["participant"], millis: int | None = None) -> ParticipantId: ...
@overload
def new_id(prefix: Literal["callback"], millis: int | None = None) -> CallbackId: ...
@overload
def new_id(prefix: Literal["task"], millis: int | None = None) -> TaskId: ...
@overload
def new_id(prefix: Prefix, millis: int | None = None) -> str: ...
def new_id(prefix: Prefix, millis: int | None = None) -> str:
    """Generate an id. Tests and simulations pass `millis` (Unix time in milliseconds); the default is now."""
    noise = _noise(80)
    now = time.time_ns() // 1_000_000 if millis is None else millis
    return f"{prefix}_{_uuid7_hex(now, noise >> 62, noise)}"


def new_request_id() -> str:
    """Generate the id of an HTTP request, which is in no resource."""
    return f"req_{_noise(128):032x}"


class NewId(Protocol):
    """The type of `new_id` and of its replacements in tests and simulations."""

    @overload
    def __call__(self, prefix: Literal["org"]) -> OrgId: ...
    @overload
    def __call__(self, prefix: Literal["user"]) -> UserId: ...
    @overload
    def __call__(self, prefix: Literal["harness"]) -> HarnessId: ...
    @overload
    def __call__(self, prefix: Literal["agent"]) -> AgentId: ...
    @overload
    def __call__(self, prefix: Literal["agentver"]) -> AgentVersionId: ...
    @overload
    def __call__(self, prefix: Literal["session"]) -> SessionId: ...
    @overload
    def __call__(self, prefix: Literal["message"]) -> MessageId: ...
    @overload
    def __call__(self, prefix: Literal["event"]) -> EventId: ...
    @overload
    def __call__(self, prefix: Literal["turn"]) -> TurnId: ...
    @overload
    def __call__(self, prefix: Literal["exec"]) -> ExecId: ...
    @overload
    def __call__(self, prefix: Literal["model"]) -> ModelId: ...
    @overload
    def __call__(self, prefix: Literal["provider"]) -> ProviderId: ...
    @overload
    def __call__(self, prefix: Literal["sched"]) -> ScheduleId: ...
    @overload
    def __call__(self, prefix: Literal["workspace"]) -> WorkspaceId: ...
    @overload
    def __call__(self, prefix: Literal["image"], millis: int | None = None) -> ImageId: ...
    @overload
    def __call__(self, prefix: Literal["principal"]) -> PrincipalId: ...
    @overload
    def __call__(self, prefix: Literal["file"]) -> FileId: ...
    @overload
    def __call__(self, prefix: Literal["token"]) -> TokenId: ...
    @overload
    def __call__(self, prefix: Literal["invitation"]) -> InvitationId: ...
    @overload
    def __call__(self, prefix: Literal["participant"]) -> ParticipantId: ...
    @overload
    def __call__(self, prefix: Literal["callback"]) -> CallbackId: ...
    @overload
    def __call__(self, prefix: Literal["task"]) -> TaskId: ...
    @overload
    def __call__(self, prefix: Prefix) -> str: ...


def millis_of(text: str) -> int:
    """Return when an id was generated: Unix time in milliseconds."""
    return int(text.rpartition("_")[2][:12], 16)


def event_id(sequence: int, millis: int, noise: int) -> EventId:
    """Build the id of the event with this sequence; `noise` must have at least 34 random bits."""
    tail = (sequence & (1 << _SEQUENCE_BITS) - 1) << _TAIL_BITS | noise & (1 << _TAIL_BITS) - 1
    return EventId(f"event_{_uuid7_hex(millis, noise >> _TAIL_BITS, tail)}")


def new_event_id(sequence: int, millis: int | None = None) -> EventId:
    """Build an event's id with the present time, unless `millis` is passed, and new random bits."""
    now = time.time_ns() // 1_000_000 if millis is None else millis
    return event_id(sequence, now, _noise(40))


def live_event_id(session_id: str, sequence: int, millis: int) -> EventId:
    """Build the id of a live event, which is not in the log: a cursor after this sequence of the session."""
    return event_id(sequence, millis, _live_mark(session_id) << _TAIL_BITS | _noise(_TAIL_BITS))


def is_live_event_id(event: str, session_id: str) -> bool:
    """Whether this may be the id of a live event of this session; one id of 4,096 is taken for one."""
    return int(event[-19:-16], 16) == _live_mark(session_id)


def _live_mark(session_id: str) -> int:
    return int.from_bytes(blake2b(session_id.encode(), digest_size=2).digest()) & 0xFFF


def sequence_of(event: str) -> int:
    """Return the sequence inside an event's id.

    Raises:
        InvalidId: the text is not an event's id.
    """
    check_id(event, "event")
    return int(event[-16:], 16) >> _TAIL_BITS & (1 << _SEQUENCE_BITS) - 1


def is_id(text: str, prefix: Prefix) -> bool:
    """Whether the text is well-formed as an id of this kind."""
    head = len(prefix) + 1
    return len(text) == head + 32 and text.startswith(f"{prefix}_") and _HEX.fullmatch(text, head) is not None


@overload
def check_id(text: str, prefix: Literal["org"], field: str | None = None) -> OrgId: ...
@overload
def check_id(text: str, prefix: Literal["user"], field: str | None = None) -> UserId: ...
@overload
def check_id(text: str, prefix: Literal["harness"], field: str | None = None) -> HarnessId: ...
@overload
def check_id(text: str, prefix: Literal["agent"], field: str | None = None) -> AgentId: ...
@overload
def check_id(text: str, prefix: Literal["agentver"], field: str | None = None) -> AgentVersionId: ...
@overload
def check_id(text: str, prefix: Literal["session"], field: str | None = None) -> SessionId: ...
@overload
def check_id(text: str, prefix: Literal["message"], field: str | None = None) -> MessageId: ...
@overload
def check_id(text: str, prefix: Literal["event"], field: str | None = None) -> EventId: ...
@overload
def check_id(text: str, prefix: Literal["turn"], field: str | None = None) -> TurnId: ...
@overload
def check_id(text: str, prefix: Literal["exec"], field: str | None = None) -> ExecId: ...
@overload
def check_id(text: str, prefix: Literal["model"], field: str | None = None) -> ModelId: ...
@overload
def check_id(text: str, prefix: Literal["provider"], field: str | None = None) -> ProviderId: ...
@overload
def check_id(text: str, prefix: Literal["sched"], field: str | None = None) -> ScheduleId: ...
@overload
def check_id(text: str, prefix: Literal["workspace"], field: str | None = None) -> WorkspaceId: ...
@overload
def check_id(text: str, prefix: Literal["principal"], field: str | None = None) -> PrincipalId: ...
@overload
def check_id(text: str, prefix: Literal["file"], field: str | None = None) -> FileId: ...
@overload
def check_id(text: str, prefix: Literal["token"], field: str | None = None) -> TokenId: ...
@overload
def check_id(text: str, prefix: Literal["invitation"], field: str | None = None) -> InvitationId: ...
@overload
def check_id(text: str, prefix: Literal["participant"], field: str | None = None) -> ParticipantId: ...
@overload
def check_id(text: str, prefix: Literal["task"], field: str | None = None) -> TaskId: ...
@overload
def check_id(text: str, prefix: Prefix, field: str | None = None) -> str: ...
def check_id(text: str, prefix: Prefix, field: str | None = None) -> str:
    """Return the text as an id of this kind.

    Raises:
        InvalidId: the text is not well-formed: wrong prefix or length, upper case, a bare UUID ...
    """
    if not is_id(text, prefix):
        raise InvalidId(prefix, field)
    return text


def uuid_of(identifier: str) -> str:
    """Return the UUID inside an id, with hyphens, as some fields of the wire contract contain it."""
    digits = identifier[-32:]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def span_of(identifier: str, name: str = "") -> str:
    """Return a span id of 16 hex digits, deterministic across processes and restarts."""
    if not name:
        return identifier[-16:]
    return blake2b(f"{identifier}/{name}".encode(), digest_size=8).hexdigest()
