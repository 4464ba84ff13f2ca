"""The tools of agents: each active agent with `expose_mcp` is one."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.app.exposed_agents import find_exposed, list_exposed
from perdure.app.sessions import read_session
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import check_id, id_schema
from perdure.domain.session_answers import SessionAnswer
from perdure.domain.sessions import CreateSession
from perdure.doors.mcp.tool import WORKS, Tool, Visit, tool
from perdure.doors.mcp.tools import PREFIX, WAIT, Seconds, Text, begin, say
from perdure.store.agents import ExposedAgent


class AskAgent(Struct, frozen=True, forbid_unknown_fields=True):
    """Send a message to this agent and wait for its answer."""

    message: Annotated[Text, Meta(description="The message for the agent.")]
    session_id: Annotated[
        Annotated[str, id_schema("session")] | None,
        Meta(description="A session with this agent, to continue it. Default: a new session."),
    ] = None
    wait_seconds: Seconds = WAIT


async def agent_tools(visit: Visit) -> list[Tool]:
    """List the tools of the organization's agents, by name."""
    return [_tool_of(agent) for agent in await list_exposed(visit.app, visit.caller)]


async def agent_tool(visit: Visit, name: str) -> Tool | None:
    """Return the tool of this name if it is an agent's."""
    if not name.startswith(PREFIX):
        return None
    agent = await find_exposed(visit.app, visit.caller, name.removeprefix(PREFIX))
    return None if agent is None else _tool_of(agent)


def _tool_of(agent: ExposedAgent) -> Tool:
    async def run(visit: Visit, given: AskAgent) -> SessionAnswer:
        if given.session_id is None:
            return await begin(visit, CreateSession(agent_id=agent.id), given.message, given.wait_seconds)
        session_id = check_id(given.session_id, "session", "session_id")
        session = await read_session(visit.app, visit.caller, session_id)
        if session.agent_id != agent.id:
            raise InvalidInput(
                f"`session_id`: the session {session_id} is not one of the agent {agent.name!r}: leave it "
                "out to start a new one, or use send_message",
                field="session_id",
            )
        return await say(visit, session_id, given.message, given.wait_seconds)

    return tool(
        f"{PREFIX}{agent.name}",
        agent.display_name or agent.name,
        WORKS,
        AskAgent,
        SessionAnswer,
        run,
        agent.description,
    )
