"""Variables of agents' prompts: what agents may declare, and the values of sessions and messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import UNSET
from msgspec.structs import replace

from perdure.domain.agents import AgentConfig
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import AgentId, AgentVersionId
from perdure.domain.messages import Controls, CreateMessage
from perdure.domain.resources import check_size
from perdure.domain.sessions import ForkSession, SessionConfig
from perdure.domain.variables import (
    Variable,
    VariableValue,
    check_prompt,
    check_values,
    defaults_of,
    fill,
    filled_in,
    mentions_variables,
    missing_message,
    missing_of,
    texts_of,
)
from perdure.store.agent_versions import get_agent_at, may_have_variables
from perdure.store.agents import AgentRow
from perdure.store.database import Tx
from perdure.store.rows import to_json
from perdure.store.sessions import IN_TURN, SessionRow


def stored_variables(
    prompt: str, given: Mapping[str, Variable], before: AgentRow | None
) -> dict[str, Variable] | None:
    """Return the variables of an agent as they are stored: None if its prompt is plain text.

    Args:
        before: the agent that is changed or replaced; None for a new one.

    Raises:
        InvalidInput: the prompt has a variable that is not declared. A prompt that an older release has
            stored may keep it, while it does not change.
    """
    if not given and before is not None and prompt == before.system_prompt and _declared(before) is None:
        return None
    check_prompt(prompt, given)
    return dict(given) if given or mentions_variables(prompt) else None


def _declared(agent: AgentRow) -> dict[str, Variable] | None:
    config: AgentConfig = agent.config_struct()
    return config.variables


def declared_by(agent: AgentRow | None) -> Iterable[str]:
    """Return the names of the variables that an agent declares."""
    return () if agent is None else _declared(agent) or ()


def check_session_values(given: Mapping[str, VariableValue], agent: AgentRow | None) -> None:
    """Check the values that a session gives. Raises InvalidInput and TooLarge."""
    if given:
        check_values(given, declared_by(agent), "variables")


async def config_with_values(tx: Tx, session: SessionRow, values: Mapping[str, VariableValue]) -> str:
    """Return a session's configuration with other values, as JSON. Raises InvalidInput and TooLarge."""
    if values and session.agent_id is not None:
        agent = await get_agent_at(tx, session.org_id, session.agent_id, session.agent_version_id)
        check_session_values(values, agent)
    else:
        check_session_values(values, None)
    config = to_json(replace(session.config_struct(), variables=dict(values)))
    check_size(config)
    return config


async def with_fork_values(
    tx: Tx,
    source: SessionRow,
    config: SessionConfig,
    body: ForkSession,
    agent_id: AgentId | None,
    version_id: AgentVersionId | None,
) -> SessionConfig:
    """Return the configuration of a session's copy with the values that its agent has variables for.

    Raises:
        InvalidInput: the fork gives a value that the copy's agent has no variable for.
        TooLarge: the values are too long together.
    """
    if body.variables is None and (body.agent_id is None or not config.variables):
        return config
    agent = None if agent_id is None else await get_agent_at(tx, source.org_id, agent_id, version_id)
    if body.variables is not None:
        check_session_values(body.variables, agent)
        return replace(config, variables=body.variables)
    known = frozenset(declared_by(agent))
    return replace(config, variables={name: each for name, each in config.variables.items() if name in known})


def with_variables(body: CreateMessage) -> CreateMessage:
    """Return the message with its values in its controls, which the log keeps. Raises InvalidInput."""
    if body.variables is UNSET or body.variables is None:
        return body
    controls = body.controls or Controls()
    if controls.variables is not None:
        raise InvalidInput("set either `variables` or `controls.variables`, not both", field="variables")
    return replace(body, controls=replace(controls, variables=body.variables), variables=UNSET)


async def check_message_values(tx: Tx, session: SessionRow, controls: Controls | None) -> bool:
    """Check the values that a message gives, and whether its turn has all that it needs.

    A message that joins a turn need not repeat the values that the turn has.

    Returns:
        Whether the agent may have variables.

    Raises:
        InvalidInput: the agent has no such variable, or one without a value.
        TooLarge: the values, or the prompt with them, are too long.
    """
    given = {} if controls is None else controls.variables or {}
    agent_id, version_id = session.agent_id, session.agent_version_id
    if agent_id is None or not await may_have_variables(tx, session.org_id, agent_id, version_id):
        check_values(given, (), "variables")
        return False
    agent = await get_agent_at(tx, session.org_id, agent_id, version_id)
    declared = _declared(agent) or {}
    check_values(given, declared, "variables")
    values = filled_in(defaults_of(declared), texts_of(session.config_struct().variables), texts_of(given))
    when_busy = None if controls is None else controls.when_busy
    joins = session.status in IN_TURN and when_busy not in ("queue", "interrupt")
    if not joins and (missing := missing_of(values)):
        raise InvalidInput(
            f"`variables`: {missing_message(missing)}",
            code="missing_variable",
            field=f"variables.{missing[0]}",
        )
    if declared:
        fill(agent.system_prompt, values)
    return True
