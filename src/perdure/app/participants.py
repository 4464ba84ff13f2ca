"""Participants: who takes part in a session, and which agent a message is for."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.app.at_head import append_aside, write_at_head
from perdure.app.context import App
from perdure.app.idempotency import Once
from perdure.app.sessions import check_startable
from perdure.capabilities.layers import read_layers
from perdure.capabilities.resolve import resolve
from perdure.domain.accounts import Caller
from perdure.domain.errors import Conflict, InvalidInput, NotFound
from perdure.domain.event_data import EventData
from perdure.domain.events import (
    EventContext,
    NewEvent,
    ParticipantJoinedData,
    ParticipantLeftData,
    SessionHandedOffData,
    TurnStartedData,
)
from perdure.domain.ids import (
    AgentId,
    AgentVersionId,
    ParticipantId,
    PrincipalId,
    SessionId,
    TurnId,
    check_id,
)
from perdure.domain.participants import (
    MAX_AGENTS,
    MAX_USERS,
    AddSessionParticipant,
    SessionParticipant,
    host_id,
    mentioned,
)
from perdure.domain.speakers import AgentAt, Speaker
from perdure.domain.times import Micros, maybe_rfc3339, to_rfc3339
from perdure.store.agents import AgentRow, get_agent
from perdure.store.database import Tx
from perdure.store.events import events_of_kinds, start_of_turn
from perdure.store.inbox import names_of_agents
from perdure.store.participants import ParticipantRow, list_participants, save_participant
from perdure.store.sessions import SessionRow, get_session

_FIELD = "addressed_participant_id"


async def session_participants(app: App, caller: Caller, session_id: SessionId) -> list[SessionParticipant]:
    """List those who take part now: the hosts first, then the others in the order of joining."""

    async def work(tx: Tx) -> list[SessionParticipant]:
        row = await get_session(tx, caller.organization_id, session_id)
        return await _described(tx, row, [*_hosts(row), *_members(row, await list_participants(tx, row))])

    return await app.database.read(work)


def _hosts(row: SessionRow) -> list[ParticipantRow]:
    """The session's owner and its own agent, which have no stored rows."""
    owner = ParticipantRow(
        row.id, row.owner_id, row.org_id, host_id(row.id, "user"), "user", None, row.created_at
    )
    if row.agent_id is None:
        return [owner]
    at = host_id(row.id, "agent")
    agent = ParticipantRow(
        row.id, row.agent_id, row.org_id, at, "agent", row.agent_version_id, row.created_at
    )
    return [owner, agent]


def _members(row: SessionRow, known: list[ParticipantRow]) -> list[ParticipantRow]:
    """Those who were added and are there. One that has become the host is not there twice."""
    hosts = {row.owner_id, row.agent_id}
    return [each for each in known if each.left_at is None and each.subject not in hosts]


async def _described(tx: Tx, row: SessionRow, those: list[ParticipantRow]) -> list[SessionParticipant]:
    names = await _names(tx, row, those)
    hosts = {host_id(row.id, "user"), host_id(row.id, "agent")}
    return [
        SessionParticipant(
            id=each.id,
            session_id=row.id,
            kind=each.kind,
            principal_id=PrincipalId(f"principal_{each.subject.rpartition('_')[2]}"),
            role="host" if each.id in hosts else "member",
            joined_at=to_rfc3339(each.joined_at),
            agent_id=each.agent_id,
            agent_version_id=each.agent_version_id,
            name=None if each.agent_id is None else names.get(each.agent_id),
            left_at=maybe_rfc3339(each.left_at),
        )
        for each in those
    ]


async def _names(tx: Tx, row: SessionRow, those: list[ParticipantRow]) -> dict[AgentId, str]:
    return await names_of_agents(tx, row.org_id, {each.agent_id for each in those if each.agent_id})


async def add_participant(
    app: App, caller: Caller, session_id: SessionId, body: AddSessionParticipant, once: Once | None = None
) -> SessionParticipant:
    """Add an agent, or the caller, to a session.

    Raises:
        NotFound: the session or the agent does not exist.
        InvalidInput: the agent cannot work in the session, or the session has reached a limit.
        Conflict: it takes part already.
    """
    if body.role == "host":
        raise InvalidInput(
            "`role`: the hosts of a session are its owner and its own agent: use `member`", field="role"
        )
    if (body.kind == "agent") != (body.agent_id is not None):
        raise InvalidInput("`agent_id`: give it for the kind `agent`, and only for that", field="agent_id")
    agent_id = None if body.agent_id is None else check_id(body.agent_id, "agent", "agent_id")
    now, new = app.now(), app.new_id("participant")

    async def work(tx: Tx) -> SessionParticipant:
        row = await get_session(tx, caller.organization_id, session_id, lock=True)
        known = await list_participants(tx, row)
        version = None if agent_id is None else await _check_agent(app, tx, row, agent_id)
        subject = caller.user_id if agent_id is None else agent_id
        there = _members(row, known)
        if subject in {each.subject for each in (*_hosts(row), *there)}:
            raise Conflict("it takes part in the session already", code="already_participant")
        _check_room(there, body)
        joined = ParticipantRow(row.id, subject, row.org_id, new, body.kind, version, now)
        before = next((each for each in known if each.subject == subject), None)
        joined = joined if before is None else replace(joined, id=before.id)
        data = ParticipantJoinedData(joined.id, joined.kind, joined.agent_id, joined.user_id)
        await _keep(app, tx, row, joined, data, now)
        return (await _described(tx, row, [joined]))[0]

    return await write_at_head(app, work, once)


async def _check_agent(app: App, tx: Tx, row: SessionRow, agent_id: AgentId) -> AgentVersionId | None:
    """Check that an agent can work in a session; return the version of it that will."""
    agent = await get_agent(tx, row.org_id, agent_id)
    check_startable(agent)
    session = row.under(AgentAt(agent.id, agent.default_version_id))
    # Its tools may have the same names as the session's: fail now, not in its first turn.
    resolve(await read_layers(tx, session), app.registry)
    return agent.default_version_id


def _check_room(there: list[ParticipantRow], body: AddSessionParticipant) -> None:
    most = MAX_AGENTS if body.kind == "agent" else MAX_USERS
    if sum(each.kind == body.kind for each in there) >= most:
        raise InvalidInput(
            f"at most {most} {body.kind}s can be added to a session: remove one first",
            code="too_many_participants",
        )


async def remove_participant(
    app: App, caller: Caller, session_id: SessionId, participant_id: ParticipantId
) -> SessionParticipant:
    """Let a participant leave; for one that has left, nothing changes.

    Raises:
        NotFound: the session has no such participant.
        Conflict: it is a host.
    """
    now = app.now()

    async def work(tx: Tx) -> SessionParticipant:
        row = await get_session(tx, caller.organization_id, session_id, lock=True)
        if participant_id in {each.id for each in _hosts(row)}:
            raise Conflict(
                "the hosts, which are the session's owner and its own agent, cannot leave",
                code="host_cannot_leave",
            )
        known = await list_participants(tx, row)
        found = next((each for each in known if each.id == participant_id), None)
        if found is None:
            raise NotFound("participant")
        if found.left_at is None:
            found = replace(found, left_at=now)
            await _keep(app, tx, row, found, ParticipantLeftData(found.id, found.kind), now)
        return (await _described(tx, row, [found]))[0]

    return await write_at_head(app, work)


async def _keep(
    app: App, tx: Tx, row: SessionRow, participant: ParticipantRow, data: EventData, now: Micros
) -> None:
    """Append the event, and store the row that follows from it."""
    await append_aside(app, tx, row, [NewEvent(data, EventContext(), now)], now)
    await save_participant(tx, participant)


async def addressee(tx: Tx, row: SessionRow, participant_id: str | None, text: str) -> Speaker | None:
    """Return the participant that a message is for; None for the session's own agent.

    Args:
        participant_id: the one that the request names; else the name at the beginning of the text counts,
            if a participant has it.

    Raises:
        NotFound: there is no such participant.
        InvalidInput: it has left, is a user, or its agent has been archived.
    """
    name = mentioned(text) if participant_id is None else None
    if participant_id is None and name is None:
        return None
    known = await list_participants(tx, row)
    if participant_id is not None:
        return await _by_id(tx, row, known, check_id(participant_id, "participant", _FIELD))
    named = await _named(tx, row, known, name)
    return None if named is None else _speaker(*named)


async def named_agent(tx: Tx, row: SessionRow, text: str) -> Speaker | None:
    """As `addressee`, for a message that nobody can correct now: one to an archived agent is for the own."""
    name = mentioned(text)
    named = None if name is None else await _named(tx, row, await list_participants(tx, row), name)
    return None if named is None or named[0].status != "active" else _speaker(*named)


async def _named(
    tx: Tx, row: SessionRow, known: list[ParticipantRow], name: str | None
) -> tuple[AgentRow, ParticipantRow] | None:
    """The participant of this name, in lower case, with its agent."""
    agents = [each for each in _members(row, known) if each.agent_id is not None]
    names = await _names(tx, row, agents)
    those = [each for each in agents if each.agent_id and names.get(each.agent_id, "").lower() == name]
    rows = [(await get_agent(tx, row.org_id, AgentId(each.subject)), each) for each in those]
    # Of several with the same name, all but one have been archived.
    return min(rows, key=lambda pair: pair[0].status != "active", default=None)


async def _by_id(
    tx: Tx, row: SessionRow, known: list[ParticipantRow], participant_id: ParticipantId
) -> Speaker | None:
    hosts = _hosts(row)
    found = next((each for each in (*hosts, *known) if each.id == participant_id), None)
    if found is None:
        raise NotFound("participant")
    if found.agent_id is None:
        raise InvalidInput(f"`{_FIELD}`: messages are addressed to agents, and this is a user", field=_FIELD)
    if found.left_at is not None:
        raise InvalidInput(f"`{_FIELD}`: this participant has left the session", field=_FIELD)
    if found.agent_id == row.agent_id:
        return None
    return _speaker(await get_agent(tx, row.org_id, found.agent_id), found)


def _speaker(agent: AgentRow, participant: ParticipantRow) -> Speaker:
    if agent.status != "active":
        raise InvalidInput(
            f"the agent {agent.name!r} is {agent.status} and cannot answer: address another one, or none",
            code="agent_archived",
            field=_FIELD,
        )
    return Speaker(agent.id, agent.name, participant.agent_version_id, participant.id)


async def speaker_of_turn(tx: Tx, row: SessionRow, turn_id: TurnId) -> Speaker | None:
    """Return the participant whose turn this was, to tell it what became of what it began.

    None for the session's own agent, which stands in for a participant that is not there any more.
    """
    members = {each.agent_id: each for each in _members(row, await list_participants(tx, row))}
    start = await start_of_turn(tx, row.id, turn_id) if members else None
    speaker = None if start is None else start.read(TurnStartedData).speaker
    found = None if speaker is None else members.get(speaker.agent_id)
    if start is None or found is None or found.agent_id is None:
        return None
    if row.handed_from is not None and await _was_handed_off(tx, row, turn_id, start.sequence):
        return None
    agent = await get_agent(tx, row.org_id, found.agent_id)
    return _speaker(agent, found) if agent.status == "active" else None


async def _was_handed_off(tx: Tx, row: SessionRow, turn_id: TurnId, after: int) -> bool:
    """Whether a participant left its turn to the agent that is now the session's own."""
    kinds = (SessionHandedOffData.kind,)
    found, _ = await events_of_kinds(tx, row.id, kinds, before=row.head, after=after)
    return any(each.context_struct().turn_id == turn_id for each in found)


async def fork_participants(app: App, tx: Tx, source: SessionRow, target: SessionRow, now: Micros) -> None:
    """Give a session's copy the participants that the session has."""
    for each in await list_participants(tx, source):
        if each.left_at is not None:
            continue
        # The host is copied, too: at the point of the copy, another agent may have been it.
        copy = replace(each, session_id=target.id, id=app.new_id("participant"), joined_at=now)
        await save_participant(tx, copy)
