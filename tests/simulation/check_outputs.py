"""Checks typed results: no turn under a schema completes without a value, and each verdict is right."""

from __future__ import annotations

from perdure.domain.events import Event
from perdure.domain.messages import text_of
from tests.simulation.model import ANSWER
from tests.simulation.world import World

MOST_REJECTED = 3


def check_outputs(world: World, log: list[Event]) -> None:
    """Record a violation for each verdict that is missing, in excess or wrong."""
    if not world.scenario.typed:
        return
    texts: dict[str, str] = {}
    rejected, accepted = 0, None
    for event, before in zip(log, (None, *log), strict=False):
        match event.type:
            case "turn.started":
                rejected, accepted = 0, None
            case "input.message" if not event.decoded().queued:
                rejected = 0  # the model call that sees it begins anew
            case "output.message.completed":
                message = event.decoded().message
                texts[message.id] = text_of(message.content)
            case "output.accepted" | "output.rejected":
                if before is None or before.type != "reason.completed":
                    world.blame(f"{event.sequence}: a verdict that does not follow its model call")
                wrong = texts[event.decoded().message_id].startswith(ANSWER)
                if wrong != (event.type == "output.rejected"):
                    world.blame(f"{event.sequence}: {event.type} for {texts[event.decoded().message_id]!r}")
                if not wrong and rejected >= MOST_REJECTED:
                    world.blame(f"{event.sequence}: accepted after {rejected} rejected answers")
                accepted = None if wrong else event.decoded()
                rejected += wrong
                if event.type == "output.rejected" and event.decoded().attempt > MOST_REJECTED:
                    world.blame(f"{event.sequence}: attempt {event.decoded().attempt}")
            case "turn.completed":
                data = event.decoded()
                if accepted is None or accepted.message_id != data.final_message_id:
                    world.blame(f"{event.sequence}: a turn under a schema completed without a value")
                elif data.output != accepted.output or str(data.output) != texts[accepted.message_id]:
                    world.blame(f"{event.sequence}: the value {data.output} is not the answer's")
            case "turn.failed" if event.decoded().error_code == "output_invalid":
                if rejected < MOST_REJECTED:
                    world.blame(f"{event.sequence}: failed after {rejected} rejected answers")
