"""The tools of agents: each active agent with `expose_mcp` is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from perdure.app.confidential import check_reader
from perdure.app.exposed_agents import find_exposed, list_exposed
from perdure.app.sessions import read_session
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import check_id, id_schema
from perdure.domain.messages import JsonObject
from perdure.domain.session_answers import SessionAnswer
from perdure.domain.sessions import CreateSession
from perdure.domain.variables import Variable, VariableValues
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


class AskAgentWithVariables(AskAgent, frozen=True, forbid_unknown_fields=True):
    """Send a message to this agent and wait for its answer."""

    variables: Annotated[
        VariableValues,
        Meta(
            description=(
                "Values for the agent's instructions. In a new session, later messages keep them; with "
                "`session_id`, they are for this message."
            )
        ),
    ] = {}


MAX_DESCRIPTION = 200
"""Characters of what is said about a variable."""


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
    declared = agent.variables()

    async def run(visit: Visit, given: AskAgent) -> SessionAnswer:
        values = given.variables if isinstance(given, AskAgentWithVariables) else {}
        if given.session_id is None:
            body = CreateSession(agent_id=agent.id, variables=values)
            return await begin(visit, body, given.message, given.wait_seconds)
        session_id = check_id(given.session_id, "session", "session_id")
        await check_reader(visit.app, visit.caller, session_id, writes=True)
        session = await read_session(visit.app, visit.caller, session_id)
        if agent.id not in (session.agent_id, session.created_with_agent_id):
            raise InvalidInput(
                f"`session_id`: the session {session_id} is not one of the agent {agent.name!r}: leave it "
                "out to start a new one, or use send_message",
                field="session_id",
            )
        return await say(visit, session_id, given.message, given.wait_seconds, variables=values)

    built = tool(
        f"{PREFIX}{agent.name}",
        agent.display_name or agent.name,
        WORKS,
        AskAgentWithVariables if declared else AskAgent,
        SessionAnswer,
        run,
        agent.description,
    )
    return _with_variables(built, declared) if declared else built


def _with_variables(built: Tool, declared: Mapping[str, Variable]) -> Tool:
    """The tool of an agent with variables, whose schema names each of them."""
    schema: JsonObject = built.definition["inputSchema"]
    properties: JsonObject = {name: _schema_of(each) for name, each in declared.items()}
    variables = {
        "type": "object",
        "description": schema["properties"]["variables"]["description"],
        "properties": properties,
        "additionalProperties": False,
    }
    schema = {**schema, "properties": {**schema["properties"], "variables": variables}}
    return replace(built, definition={**built.definition, "inputSchema": schema})


def _schema_of(variable: Variable) -> JsonObject:
    text = "Required in a new session." if variable.default is None else ""
    about = f"{(variable.description or '')[:MAX_DESCRIPTION]} {text}".strip()
    schema: JsonObject = {"type": ["string", "number", "boolean"]}
    return {**schema, "description": about} if about else schema
