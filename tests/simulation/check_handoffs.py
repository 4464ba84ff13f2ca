"""Checks handoffs and participants: each model call is the right agent's, and no call hands off twice."""

from __future__ import annotations

from collections import Counter

from perdure.domain.events import Event
from perdure.domain.messages import text_of
from tests.simulation.world import World


def _is_for_second(event: Event) -> bool:
    return event.type == "input.message" and text_of(event.decoded().message.content).startswith("@second")


def check_handoffs(world: World, log: list[Event]) -> None:
    """Record a violation for each model call of another agent than the log leads to, and each odd handoff."""
    history = world.scenario.history
    if history is None:
        return
    asked = sum(_is_for_second(event) for event in log)
    if asked != sum(event.type == "input.message" and event.decoded().addressed is not None for event in log):
        world.blame(f"{asked} messages are for the second agent")
    own = first = world.store.agents[f"first-{history}"]
    speaker, queued = None, {}
    made: Counter[tuple[str | None, str]] = Counter()
    for event in log:
        exec_id = event.context_struct().exec_id
        match event.type:
            case "input.message":
                queued[event.decoded().message.id] = event.decoded().addressed
            case "turn.started":
                speaker = queued[event.decoded().input_message_id]
                if event.decoded().speaker != speaker:
                    world.blame(f"{event.sequence}: the turn of {event.decoded().speaker}, not {speaker}")
            case "session.handed_off":
                data = event.decoded()
                if data.from_agent_id != (speaker.agent_id if speaker else own):
                    world.blame(f"{event.sequence}: handed off by {data.from_agent_id}")
                own, speaker = data.to_agent_id, None
                made[exec_id, data.tool_call_id] += 1
            case "reason.started":
                agent = speaker.agent_id if speaker else own
                if event.decoded().agent_id != agent:
                    world.blame(f"{event.sequence}: a model call of {event.decoded().agent_id}, not {agent}")
            case "output.message.completed" if exec_id is not None:
                author, agent = event.decoded().message.author, speaker.agent_id if speaker else own
                if (first if author is None else author.agent_id) != agent:
                    world.blame(f"{event.sequence}: a message of {author}, not {agent}")
            case "tool.completed" if event.decoded().tool_name == "handoff_to_agent":
                data, done = event.decoded(), made[exec_id, event.decoded().tool_call_id]
                if done > 1 or (data.success and not done) or (data.status == "error" and done):
                    world.blame(f"{event.sequence}: {data.status} after {done} handoffs")
    row = world.store.row(world.session_id)
    if (row.agent_id, row.first_agent().agent_id) != (own, first):
        world.blame(f"the session is that of {row.agent_id}, and the log leads to {own}")
