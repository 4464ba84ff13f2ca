"""The model: plays the script that the newest user message names; answers contain the call's number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.domain.compaction import SYSTEM
from perdure.domain.errors import ModelError
from perdure.domain.messages import Message, ToolCallPart, Usage, text_of
from perdure.llm.driver import ListedModel, ModelRequest, ModelResponse, OnDelta
from tests.simulation.meters import metered
from tests.simulation.scenarios import Step

if TYPE_CHECKING:
    from tests.simulation.world import Process

ANSWER = "answer"
"""The start of each answer; the number of the model call follows."""


SPARE = "spare"
"""The vendor's name of the fallback model."""

SUMMARY = "summary"
"""The start of each summary; the number of the call that wrote it follows."""


def message_text(number: int, script: int | None) -> str:
    """The text of a message that plays a script."""
    return f"message {number} plays {'-' if script is None else script}"


class ScriptedDriver:
    """The driver of one process; it records its calls in the world."""

    provider_type = "llmsim"

    def __init__(self, process: Process) -> None:
        self._process = process

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        if request.system == SYSTEM:
            return await self._summarize(request)
        process, world = self._process, self._process.world
        number = world.begin_call(process, request)
        await process.point("model.before")
        message, position = _position(request)
        used = metered(process, request, message, Usage(10 + number, 2))
        step = self._step(message, position)
        if step.seconds:
            await process.pause(step.seconds)
        place = (message.id, position, request.model)
        attempts = world.attempts[place] = world.attempts.get(place, 0) + 1
        failures = step.spare_failures if request.model == SPARE else step.failures
        if failures < 0:
            raise ModelError("simulated", code="provider_auth")
        if attempts <= failures:
            if world.scenario.fallback:
                on_delta("text", f"{ANSWER} that breaks off")
                await process.point("model.during")
            raise ModelError(
                "simulated", code="provider_rate_limited", transient=True, retry_after=step.retry_after
            )
        if step.empty and attempts == 1:
            world.empty[request.cache_key or ""] = used
            return ModelResponse("", (), usage=used, finish_reason="stop")
        on_delta("text", f"{ANSWER} ")
        await process.point("model.during")
        on_delta("text", str(number))
        prefix = "call" if world.scenario.repeat_ids else f"call_{number}"
        calls = tuple(
            ToolCallPart(f"{prefix}_{index}", name, arguments)
            for index, (name, arguments) in enumerate(step.calls)
        )
        await process.point("model.after")
        finish = "length" if step.cut else "stop"
        typed = request.output is not None and not calls and not step.wrong
        text = f'{{"value": {number}}}' if typed else f"{ANSWER} {number}"
        return ModelResponse(text, calls, usage=used, finish_reason=finish)

    async def _summarize(self, request: ModelRequest) -> ModelResponse:
        process, world = self._process, self._process.world
        await process.point("model.before")
        world.summaries.append("".join(text_of(message.content) for message in request.messages))
        number = len(world.summaries) - 1
        used = metered(process, request, None, Usage(5, 1))
        await process.point("model.after")
        return ModelResponse(f"{SUMMARY} {number}", usage=used)

    def _step(self, message: Message, position: int) -> Step:
        before, _, name = text_of(message.content).rpartition(" ")
        # The newest user message can also be a summary or the late result of a callback: neither names one.
        names = name.isdecimal() and before.endswith("plays")
        script = self._process.world.scenario.scripts[int(name)] if names else ()
        return script[position] if position < len(script) else Step()

    def optional(self, request: ModelRequest) -> frozenset[str]:
        return frozenset()

    async def list_models(self) -> list[ListedModel]:
        return []


def _position(request: ModelRequest) -> tuple[Message, int]:
    """The newest user message, and how many answers came after it."""
    answers = 0
    for message in reversed(request.messages):
        if message.role == "user":
            return message, answers
        answers += message.role == "agent"
    raise AssertionError("a prompt without a user message")
