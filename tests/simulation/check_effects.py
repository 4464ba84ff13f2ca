"""Checks promise P10: each call's effects have one key, and none is sent again while it may be looked up."""

from __future__ import annotations

from collections import Counter
from typing import Any

from perdure.domain.decisions import Decided
from perdure.domain.effects import part_key
from perdure.domain.events import Event, OutputMessageCompletedData, ToolCompletedData, ToolStartedData
from perdure.domain.messages import JsonObject, JsonValue
from perdure.domain.tools import APPROVE, call_of_question
from tests.simulation.world import Effect, World

STEPS = ("first", "second", "send")
OWN_ERRORS = frozenset({"refuse"})
"""Tools that say themselves that they failed."""


def check_effects(world: World, log: list[Event]) -> None:
    """Record a violation for every effect with a wrong key, every repeated one, and every silent loss."""
    _check_keys(world, log)
    _check_arguments(world, log)
    _check_repeats(world)
    _check_steps(world, log)
    _check_ends(world, log)


def _check_keys(world: World, log: list[Event]) -> None:
    """Each call has its own key, which is logged before its effects, and is that of all of them."""
    starts = [(event.sequence, event.decoded()) for event in log if event.type == "tool.started"]
    again = sum(event.type == "tool.resumed" for event in log)  # such a call keeps its key
    if len({data.effect_key for _, data in starts}) < len(starts) - again:
        world.blame("P10: two calls have the same key")
    for effect in world.effects:
        begun = [
            data.effect_key
            for sequence, data in starts
            if data.tool_call.id == effect.call_id and sequence <= effect.head
        ]
        if effect.current:
            begun = begun[-1:]  # a runner that lost the session may still work on an earlier call with the id
        parts = {part_key(key, name) for key in begun for name in STEPS}
        if begun and effect.key not in {*begun, *parts}:
            world.blame(f"P10: {effect.word} has the key {effect.key}, its call {begun[-1]}")


def _check_arguments(world: World, log: list[Event]) -> None:
    """Every call is made with the arguments in the log: after a person edited them, with those."""
    written: dict[str, JsonValue] = {}
    edited: dict[str, JsonObject] = {}
    for event in log:
        match event.decoded():
            case ToolCompletedData(tool_name=name, decided=Decided(arguments=dict() as after)) as data:
                if name == APPROVE:
                    edited[call_of_question(data.tool_call_id)] = after
            case OutputMessageCompletedData():
                edited.clear()
            case ToolStartedData(tool_call=call, effect_key=str(key)):
                written[key] = call.arguments
                if edited.get(call.id, call.arguments) != call.arguments:
                    world.blame(f"the call {call.id} starts with other arguments than a person wrote")
    for key, arguments in world.received:
        if key in written and written[key] != arguments:
            world.blame(f"the call with the key {key} was made with {arguments}, not {written[key]}")


def _check_repeats(world: World) -> None:
    """A runner that holds the session sends nothing again that it could look up."""
    sent = Counter(
        effect.key for effect in world.effects if effect.current and effect.tool in {"asked", "order"}
    )
    for key, times in sent.items():
        if times > 1:
            world.blame(f"P10: the effect {key} was sent {times} times")


def _check_steps(world: World, log: list[Event]) -> None:
    """A step begins in the log before its effect takes place, and not again once it has ended."""
    begun: dict[str, int] = {}
    ended: set[tuple[str, str]] = set()
    open_steps: dict[str, set[str]] = {}
    for event in log:
        span = event.context_struct().span_id or ""
        stopped = event.type == "tool.completed" and event.decoded().status == "interrupted"
        if stopped and not open_steps.get(span, {"all"}):
            world.blame(f"P10: a call whose steps have ended does not go on, at {event.sequence}")
        if event.type == "tool.parked" and event.decoded().tool_name == "posted" and span not in open_steps:
            world.blame(f"P10: a call waits for a callback that nobody knows, at {event.sequence}")
        if event.type != "tool.step":
            continue
        steps = open_steps.setdefault(span, set())
        (steps.add if event.decoded().status == "started" else steps.discard)(event.decoded().name)
        data, place = event.decoded(), (span, event.decoded().name)
        if data.status == "started":
            begun.setdefault(data.effect_key, event.sequence)
            if place in ended:
                world.blame(f"P10: the step {data.name} begins again after its end, at {event.sequence}")
        else:
            ended.add(place)
    for effect in world.effects:
        if effect.tool in {"order", "posted"} and begun.get(effect.key, effect.head + 1) > effect.head:
            world.blame(f"P10: {effect.word} was done before the start of its step was logged")


def _check_ends(world: World, log: list[Event]) -> None:
    """If a call may have had an effect and has no result, the log says so; a result names its own effects."""
    keys: dict[str, str] = {}
    for event in log:
        if event.type == "reason.started":
            keys.clear()  # the model may use the same ids again
        elif event.type == "tool.started":
            keys[event.decoded().tool_call.id] = event.decoded().effect_key
        elif event.type == "tool.completed" and event.decoded().tool_call_id in keys:
            _check_end(world, event.decoded(), keys[event.decoded().tool_call_id])


def _check_end(world: World, data: Any, key: str) -> None:
    known = {key, *(part_key(key, name) for name in STEPS)}
    effects: list[Effect] = [effect for effect in world.effects if effect.key in known]
    if data.success and data.tool_name in {"asked", "order"}:
        text = data.result[0].text
        if not any(effect.word in text for effect in effects):
            world.blame(f"P10: the result {text!r} of {data.tool_call_id} is not of its own effect")
    if (
        not data.success
        and effects
        and data.tool_name not in {*OWN_ERRORS, "look"}
        and not data.outcome_unknown
    ):
        world.blame(f"P10: {data.tool_call_id} had an effect and failed, and the log says that it had none")
