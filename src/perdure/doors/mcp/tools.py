"""The tools for all agents: start sessions, send messages, wait for answers, decide approvals.

The docstring of a tool's arguments is its description, which models read.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.app.agents import page_of_agents
from perdure.app.approvals import submit_approvals
from perdure.app.messages import post_message
from perdure.app.session_answers import list_approvals, read_answer, wait_for_answer
from perdure.app.session_ends import cancel_turn, delete_session
from perdure.app.session_lists import page_of_sessions
from perdure.app.sessions import create_session
from perdure.domain.cancels import CancelledTurn
from perdure.domain.decisions import Decision
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import AgentId, SessionId, id_schema, is_id
from perdure.domain.inbox import Decider
from perdure.domain.messages import Controls, CreateMessage, InputMessage, TextPart
from perdure.domain.session_answers import OpenApproval, SessionAnswer
from perdure.domain.sessions import CreateSession, Status
from perdure.domain.times import Timestamp
from perdure.domain.tools import ApprovalDecision, SubmitApprovals, SubmittedToolResults
from perdure.domain.variables import VariableValues
from perdure.doors.mcp.question_tools import answer_questions
from perdure.doors.mcp.tool import DECIDES, READS, STOPS, WORKS, Tool, Visit, open_session, tool
from perdure.store.session_lists import SessionFilter

MAX_WAIT = 300
"""Seconds that one call waits at most."""
WAIT = 50
"""Seconds that a call waits by default: many clients give up after a minute."""
MAX_PREVIEW = 300
"""Characters of a text in a list."""
PREFIX = "agent_"
"""How the names of the tools of agents begin."""

SessionRef = Annotated[
    Annotated[str, id_schema("session")],
    Meta(description="The session's id, such as start_session returns it."),
]
Reference = Annotated[str, Meta(min_length=1, max_length=100)]
Text = Annotated[str, Meta(min_length=1, max_length=1_000_000)]
Seconds = Annotated[
    Annotated[int, Meta(ge=0, le=MAX_WAIT)],
    Meta(
        description=(
            "How many seconds to wait for the answer at most. If it takes longer, the agent goes on, and "
            "read_answer waits again."
        )
    ),
]
ClientMessageId = Annotated[
    Annotated[str, Meta(min_length=1, max_length=200)] | None,
    Meta(
        description=(
            "Your own id of the message, unique in the session. Sending the same message again with it has "
            "no further effect, so use it if you may have to repeat the call."
        )
    ),
]


class ListAgents(Struct, frozen=True, forbid_unknown_fields=True):
    """List the agents of this Perdure server, each of which does one kind of work."""

    search: Annotated[
        Annotated[str, Meta(max_length=200)] | None,
        Meta(description="Text to find in the name or the description, case-insensitive."),
    ] = None
    offset: Annotated[int, Meta(description="How many agents to skip.", ge=0, le=1_000_000)] = 0
    limit: Annotated[int, Meta(description="How many agents to list at most.", ge=1, le=100)] = 50


class ListedAgent(Struct, frozen=True, omit_defaults=True):
    id: Annotated[AgentId, Meta(description="The agent's id.")]
    name: Annotated[str, Meta(description="The agent's name, which start_session takes.")]
    display_name: Annotated[str | None, Meta(description="The name that people see.")] = None
    description: Annotated[str | None, Meta(description="What the agent is for.")] = None
    tool: Annotated[str | None, Meta(description="The tool that asks just this agent, if it has one.")] = None


class AgentList(Struct, frozen=True):
    agents: Annotated[tuple[ListedAgent, ...], Meta(description="The agents, newest first.")]
    total: Annotated[int, Meta(description="How many agents match in all.")]


class StartSession(Struct, frozen=True, forbid_unknown_fields=True):
    """Start a session with an agent and, with a message, wait for its answer.

    Returns the answer, or where the agent is when the time is over: with the status `active`, call
    read_answer; with open approvals, ask the user and call decide_approval.
    """

    agent: Annotated[
        Reference | None, Meta(description="The agent's name or id. Without one, the harness works alone.")
    ] = None
    harness: Annotated[
        Reference | None,
        Meta(description="The harness's name or id. Default: the agent's, or else the organization's."),
    ] = None
    message: Annotated[
        Text | None, Meta(description="The first message. Without one, the session waits for send_message.")
    ] = None
    wait_seconds: Seconds = WAIT
    title: Annotated[
        Annotated[str, Meta(max_length=500)] | None, Meta(description="A title, for people.")
    ] = None
    variables: Annotated[
        VariableValues, Meta(description="Values for the agent's instructions, by name, if it asks for some.")
    ] = {}


class SendMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """Send a message to a session and wait for the answer.

    While the agent works, the message steers it. If a tool call waits for approval, the message cancels that
    call. Returns the answer, or where the agent is when the time is over: with the status `active`, call
    read_answer; with open approvals, ask the user and call decide_approval.
    """

    session_id: SessionRef
    message: Annotated[Text, Meta(description="The message for the agent.")]
    wait_seconds: Seconds = WAIT
    client_message_id: ClientMessageId = None


class ReadAnswer(Struct, frozen=True, forbid_unknown_fields=True):
    """Read a session's latest answer and what it waits for.

    While the agent works, this waits for the answer first, up to `wait_seconds`.
    """

    session_id: SessionRef
    wait_seconds: Seconds = 0


class ListSessions(Struct, frozen=True, forbid_unknown_fields=True):
    """List sessions with their status, newest first."""

    status: Annotated[Status | None, Meta(description="List only sessions with this status.")] = None
    search: Annotated[
        Annotated[str, Meta(max_length=200)] | None,
        Meta(description="Text to find in the title, case-insensitive."),
    ] = None
    offset: Annotated[int, Meta(description="How many sessions to skip.", ge=0, le=1_000_000)] = 0
    limit: Annotated[int, Meta(description="How many sessions to list at most.", ge=1, le=100)] = 20


class ListedSession(Struct, frozen=True, omit_defaults=True):
    session_id: Annotated[SessionId, Meta(description="The session's id.")]
    status: Annotated[Status, Meta(description="Where the session is.")]
    updated_at: Annotated[Timestamp, Meta(description="When it changed last.")]
    agent_id: Annotated[AgentId | None, Meta(description="The agent that works in it.")] = None
    title: Annotated[str | None, Meta(description="The title.")] = None
    preview: Annotated[str | None, Meta(description="The start of the first message.")] = None
    output_preview: Annotated[str | None, Meta(description="The start of the last answer.")] = None


class SessionList(Struct, frozen=True):
    sessions: Annotated[tuple[ListedSession, ...], Meta(description="The sessions, newest first.")]
    total: Annotated[int, Meta(description="How many sessions match in all.")]


class ListApprovals(Struct, frozen=True, forbid_unknown_fields=True):
    """List the tool calls that agents want to make and that wait for a person's approval."""

    session_id: Annotated[
        Annotated[str, id_schema("session")] | None,
        Meta(description="The session's id. Default: the 50 newest sessions that wait."),
    ] = None


class ApprovalList(Struct, frozen=True):
    approvals: Annotated[tuple[OpenApproval, ...], Meta(description="The tool calls that wait for approval.")]


class DecideApproval(Struct, frozen=True, forbid_unknown_fields=True):
    """Allow or reject a tool call that waits for approval.

    Ask the user first: the decision is a person's. Then call read_answer with `wait_seconds`.
    """

    session_id: SessionRef
    tool_call_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=500)],
        Meta(description="The id of the tool call, such as list_approvals returns it."),
    ]
    decision: Annotated[
        Decision,
        Meta(
            description=(
                "`allow` or `reject` this call; with `_always`, also every later call of the tool in this "
                "session, which only the session's owner or an admin may decide."
            )
        ),
    ]


class CancelTurn(Struct, frozen=True, forbid_unknown_fields=True):
    """Stop what a session does now. Without a running turn, nothing happens."""

    session_id: SessionRef


async def _list_agents(visit: Visit, given: ListAgents) -> AgentList:
    page = await page_of_agents(
        visit.app, visit.caller, given.search or None, False, given.offset, given.limit
    )
    agents = tuple(
        ListedAgent(
            each.id,
            each.name,
            each.display_name,
            each.description,
            f"{PREFIX}{each.name}" if each.expose_mcp else None,
        )
        for each in page.data
    )
    return AgentList(agents, page.total)


async def _start_session(visit: Visit, given: StartSession) -> SessionAnswer:
    agent, harness = given.agent, given.harness
    named = agent is not None and is_id(agent, "agent")
    by_id = harness is not None and is_id(harness, "harness")
    body = CreateSession(
        harness_id=harness if by_id else None,
        harness_name=None if by_id else harness,
        agent_id=agent if named else None,
        agent_name=None if named else agent,
        title=given.title,
        variables=given.variables,
    )
    return await begin(visit, body, given.message, given.wait_seconds)


async def begin(visit: Visit, body: CreateSession, message: str | None, seconds: float) -> SessionAnswer:
    """Start a session and, if there is a message, send it and wait for its answer."""
    session = await create_session(visit.app, visit.caller, body)
    if message is None:
        return await read_answer(visit.app, visit.caller, session.id)
    try:
        return await say(visit, session.id, message, seconds)
    except InvalidInput:  # nobody knows the session yet
        await delete_session(visit.app, visit.caller, session.id)
        raise


async def say(
    visit: Visit,
    session_id: SessionId,
    text: str,
    seconds: float,
    client_message_id: str | None = None,
    variables: VariableValues | None = None,
) -> SessionAnswer:
    """Send a message and wait for its answer."""
    body = CreateMessage(
        InputMessage((TextPart(text),)),
        Controls(variables=variables) if variables else None,
        client_message_id=client_message_id,
    )
    message = await post_message(visit.app, visit.caller, session_id, body)
    return await wait_for_answer(
        visit.app, visit.caller, session_id, seconds, visit.stop, after=message.sequence, see=visit.see
    )


async def _send_message(visit: Visit, given: SendMessage) -> SessionAnswer:
    session_id = await open_session(visit, given.session_id)
    return await say(visit, session_id, given.message, given.wait_seconds, given.client_message_id)


async def _read_answer(visit: Visit, given: ReadAnswer) -> SessionAnswer:
    session_id = await open_session(visit, given.session_id, writes=False)
    return await wait_for_answer(
        visit.app, visit.caller, session_id, given.wait_seconds, visit.stop, see=visit.see
    )


async def _list_sessions(visit: Visit, given: ListSessions) -> SessionList:
    filters = SessionFilter(
        search=given.search or None, statuses=() if given.status is None else (given.status,)
    )
    page = await page_of_sessions(visit.app, visit.caller, filters, given.offset, given.limit)
    sessions = tuple(
        ListedSession(
            each.id,
            each.status,
            each.updated_at,
            each.agent_id,
            each.title,
            None if each.preview is None else each.preview[:MAX_PREVIEW],
            None if each.output_preview is None else each.output_preview[:MAX_PREVIEW],
        )
        for each in page.data
    )
    return SessionList(sessions, page.total)


async def _list_approvals(visit: Visit, given: ListApprovals) -> ApprovalList:
    session_id = (
        None if given.session_id is None else await open_session(visit, given.session_id, writes=False)
    )
    return ApprovalList(tuple(await list_approvals(visit.app, visit.caller, session_id)))


async def _decide_approval(visit: Visit, given: DecideApproval) -> SubmittedToolResults:
    session_id = await open_session(visit, given.session_id)
    body = SubmitApprovals((ApprovalDecision(given.tool_call_id, given.decision),))
    return await submit_approvals(visit.app, Decider(visit.caller, "mcp"), session_id, body)


async def _cancel_turn(visit: Visit, given: CancelTurn) -> CancelledTurn:
    return await cancel_turn(visit.app, visit.caller, await open_session(visit, given.session_id))


def general_tools() -> tuple[Tool, ...]:
    """Build the tools that every caller has."""
    return (
        tool("list_agents", "List agents", READS, ListAgents, AgentList, _list_agents),
        # The fields of their results are described once, by `read_answer`.
        tool(
            "start_session",
            "Start a session",
            WORKS,
            StartSession,
            SessionAnswer,
            _start_session,
            described=False,
        ),
        tool(
            "send_message",
            "Send a message",
            WORKS,
            SendMessage,
            SessionAnswer,
            _send_message,
            described=False,
        ),
        tool("read_answer", "Read the answer", READS, ReadAnswer, SessionAnswer, _read_answer),
        tool("list_sessions", "List sessions", READS, ListSessions, SessionList, _list_sessions),
        tool("list_approvals", "List approvals", READS, ListApprovals, ApprovalList, _list_approvals),
        tool(
            "decide_approval",
            "Decide an approval",
            DECIDES,
            DecideApproval,
            SubmittedToolResults,
            _decide_approval,
        ),
        answer_questions(),
        tool("cancel_turn", "Cancel the turn", STOPS, CancelTurn, CancelledTurn, _cancel_turn),
    )
