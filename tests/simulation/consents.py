"""What the world knows about questions to people and sign-ins, and the checks of their promises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from perdure.app.context import App
from perdure.capabilities.port import ToolContext
from perdure.domain.connections import SERVICE, SignInServer
from perdure.domain.events import ENDED_TURN, Event
from perdure.domain.mcp import McpInputRequest, McpInputRequired
from perdure.domain.oauth import Grant, OAuthClient
from perdure.domain.questions import AskedOption, AskedQuestion
from perdure.store.connections import ConnectionRow, put_connection
from perdure.store.database import Tx
from perdure.store.rows import to_json

if TYPE_CHECKING:
    from tests.simulation.world import World

QUESTIONS = McpInputRequired(
    (McpInputRequest("q", "form", "May I?", {"type": "object", "properties": {}}),), "state"
)
ASKED_QUESTIONS = (
    AskedQuestion("q", "choice", "May I?", (AskedOption("yes"), AskedOption("no", recommended=True))),
    AskedQuestion("s", "secret", "Your PIN?", secret_name="PIN"),
)
URL = "https://mcp.example.com/mcp"


@dataclass
class Asked:
    """A question that the client has seen: how often it was answered, surely and perhaps."""

    deadline: int
    accepted: int = 0
    unknown: int = 0


@dataclass(frozen=True)
class Promised:
    """A call that has asked a person, until a deadline; `head`: of the log, when it had."""

    call_id: str
    head: int
    deadline: int


@dataclass
class Consents:
    """The questions that the client has answered, the calls that have asked, and when it has signed in."""

    asked: dict[str, Asked] = field(default_factory=dict)
    promised: list[Promised] = field(default_factory=list)
    signed_in_at: int | None = None
    replied: int = 0
    perhaps: int = 0
    """Answers to the agent's questions that were surely, and perhaps, accepted."""

    def ask(self, request_id: str, deadline: int) -> Asked:
        """Return what is known of a question."""
        return self.asked.setdefault(request_id, Asked(deadline))


def server_of(context: ToolContext) -> SignInServer:
    """Each session has its own server, at which the organization signs in."""
    return SignInServer(f"inline_{context.session_id}", "simulated", URL, "service")


async def store_grant(app: App, world: World) -> None:
    """Store tokens, as the callback of a sign-in does."""
    key, now, org_id = f"inline_{world.session_id}", app.now(), world.store.caller.organization_id
    grant = Grant("at", None, None, (), "https://as", URL, "https://as/token", OAuthClient("c"))

    async def store(tx: Tx) -> None:
        row = ConnectionRow(
            org_id, SERVICE, key, "simulated", URL, "https://as", "", b"", 1, 0, now, None, now, now
        )
        sealed = await app.vault.seal(tx, org_id, to_json(grant), row.binding)
        await put_connection(tx, ConnectionRow(*[*_values(row)[:7], sealed, *_values(row)[8:]]))

    await app.database.write(store)


def _values(row: ConnectionRow) -> list[object]:
    return [getattr(row, name) for name in row.__struct_fields__]


def check_consents(world: World, log: list[Event]) -> None:
    """Each accepted answer resumes its call once, and no call acts before."""
    resumed = [event for event in log if event.type == "tool.resumed"]
    forms = sum(event.decoded().parked_kind == "input" for event in resumed)
    surely = sum(each.accepted for each in world.consents.asked.values())
    perhaps = sum(each.unknown for each in world.consents.asked.values())
    if any(each.accepted > 1 for each in world.consents.asked.values()):
        world.blame("a question was answered twice")
    if not world.told.deletion_tried and not surely <= forms <= surely + perhaps:
        world.blame(f"{surely} to {surely + perhaps} answers were accepted, and {forms} calls resumed")
    for effect in world.effects:
        if effect.tool == "consent" and not any(
            event.sequence <= effect.head and event.decoded().tool_call_id == effect.call_id
            for event in resumed
        ):
            world.blame(f"{effect.word} was done before anybody was asked")
    _check_ends(world, log)
    _check_questions(world, log)
    for each in world.consents.promised:
        _check_promise(world, each, log)


def _check_questions(world: World, log: list[Event]) -> None:
    """Each question of the agent ends once, and each accepted answer ends one."""
    answered, waiting = 0, set[str]()
    for event in log:
        if event.type == "tool.parked" and event.decoded().parked_kind == "question":
            waiting.add(event.decoded().tool_call_id)
        elif event.type == "tool.completed" and event.decoded().tool_name == "question":
            data = event.decoded()
            answered += data.answered is not None
            if data.tool_call_id in waiting and data.status not in ("success", "timeout", "cancelled"):
                world.blame(f"the question {data.tool_call_id} ended as {data.status}")
            if (data.answered is not None) and data.tool_call_id not in waiting:
                world.blame(f"the question {data.tool_call_id} was answered, and waited no more")
            waiting.discard(data.tool_call_id)
        elif event.type in ENDED_TURN:
            waiting.clear()
    surely, perhaps = world.consents.replied, world.consents.perhaps
    if not world.told.deletion_tried and not surely <= answered <= surely + perhaps:
        world.blame(f"{surely} to {surely + perhaps} answers were accepted, and {answered} are in the log")


def _check_promise(world: World, promised: Promised, log: list[Event]) -> None:
    """A call that has asked waits, also if its process died before the log said so."""
    for event in log[promised.head :]:
        if event.type == "reason.started":
            return
        if event.type not in ("tool.resumed", "tool.completed"):
            continue
        data = event.decoded()
        if data.tool_call_id != promised.call_id:
            continue
        if event.type == "tool.completed" and data.status == "interrupted" and event.ts < promised.deadline:
            world.blame(f"the call {data.tool_call_id} had asked a person, and was given up for a crash")
        return


def _check_ends(world: World, log: list[Event]) -> None:
    """A call that has asked and had no answer has had no effect, and is not given up for a crash."""
    waiting: set[str] = set()
    for event in log:
        if event.type == "reason.started":
            waiting.clear()
        elif event.type == "tool.parked" and event.decoded().parked_kind in ("sign_in", "input"):
            waiting.add(event.decoded().tool_call_id)
        elif event.type == "tool.resumed":
            waiting.discard(event.decoded().tool_call_id)
        elif event.type == "tool.completed" and event.decoded().tool_call_id in waiting:
            data = event.decoded()
            since = world.consents.signed_in_at
            late = since is not None and data.tool_name == "sign" and event.ts > since + 3_600_000_000
            if late and data.status == "timeout":
                world.blame(f"the call {data.tool_call_id} waited for a sign-in that had happened")
            if data.status == "interrupted" or data.outcome_unknown:
                world.blame(f"the call {data.tool_call_id} waited for a person, and ended as {data.status}")
