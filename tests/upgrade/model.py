"""A model server (Chat Completions) that plays scripts, and can hold an answer back so that a kill hits it.

A script is part of a user message, so a database contains its scripts:

    Please. [[play {"name": "killed/1", "steps": [{"calls": [...]}, {"text": "Done."}]}]]

The newest user message with a script counts; the current step is the number of the model's messages after
it. A step has `text`, `thinking`, `calls`, or `status` (an HTTP error). `hold` says where the model stops
while the database is built: `silent` (before any text), `speaking` (after half of the text), `refused`
(503, retry later).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.talk import Json

OPEN = "[[play "


def play(name: str, *steps: Json, ask: str = "Please.") -> str:
    """Return a user message with a script."""
    return f"{ask} {OPEN}{json.dumps({'name': name, 'steps': steps})}]]"


@dataclass(frozen=True)
class Asked:
    """One call of the model.

    Attributes:
        name: the script that was played.
        step: which of its steps.
        key: the key that came with the call.
        prompt: the system prompt.
        messages: all other messages, as texts.
    """

    name: str
    step: int
    key: str
    prompt: str
    messages: list[str]


class PlayedModel:
    """The server. `holds` says whether steps are held back; `url` is its base URL."""

    def __init__(self, *, holds: bool) -> None:
        self.holds = holds
        self.url = ""
        self.asked: list[Asked] = []
        self._changed = asyncio.Condition()

    def calls(self, session: str) -> list[Asked]:
        """Return the calls made with the scripts of this session."""
        return [each for each in self.asked if each.name.rsplit("/", 1)[0] == session]

    async def until_asked(self, name: str, step: int = 0) -> None:
        """Wait until the server has called the model for this step."""
        async with asyncio.timeout(30), self._changed:
            await self._changed.wait_for(
                lambda: any((each.name, each.step) == (name, step) for each in self.asked)
            )

    async def until_more(self, than: int) -> None:
        """Wait until the server has called the model more often than that."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.asked) > than)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Play a step."""
        messages: list[Json] = (await request.json())["messages"]
        script, number = _script_in(messages)
        if script is None:
            return web.json_response({"error": {"message": "a message without a script"}}, status=400)
        steps = script["steps"]
        step: Json = steps[number] if number < len(steps) else {"text": "Done."}
        prompt = "".join(_text_of(each) for each in messages if each["role"] == "system")
        texts = [_text_of(each) for each in messages if each["role"] != "system"]
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        async with self._changed:
            self.asked.append(Asked(script["name"], number, key, prompt, texts))
            self._changed.notify_all()
        hold = step.get("hold") if self.holds else None
        if hold == "refused":
            return web.json_response(
                {"error": {"message": "too much to do"}}, status=503, headers={"Retry-After": "60"}
            )
        if step.get("status"):
            return web.json_response({"error": {"message": "no"}}, status=step["status"])
        if hold == "silent":
            await asyncio.Event().wait()
        return await _stream(request, step, hangs=hold == "speaking")


async def _stream(request: web.Request, step: Json, *, hangs: bool) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)

    async def send(delta: Json | None, **more: Any) -> None:
        choices = [] if delta is None else [{"index": 0, "delta": delta, **more}]
        chunk = {"id": "played", "model": "played", "choices": choices} | (more if delta is None else {})
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    if step.get("thinking"):
        await send({"reasoning_content": step["thinking"]})
    text = step.get("text", "")
    if hangs:
        await send({"content": text[: len(text) // 2]})
        await asyncio.Event().wait()
    if text:
        await send({"content": text})
    calls = step.get("calls", [])
    for index, each in enumerate(calls):
        function = {"name": each["name"], "arguments": json.dumps(each["arguments"])}
        await send({"tool_calls": [{"index": index, "id": each["id"], "function": function}]})
    await send({}, finish_reason="tool_calls" if calls else "stop")
    await send(None, usage={"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24})
    await response.write(b"data: [DONE]\n\n")
    return response


def _script_in(messages: list[Json]) -> tuple[Json | None, int]:
    """Return the newest script, and its next step."""
    answers = 0
    for message in reversed(messages):
        text = _text_of(message)
        if message["role"] == "user" and OPEN in text:
            return _last_script(text), answers
        answers += message["role"] == "assistant"
    return None, answers


def _last_script(text: str) -> Json:
    """The last script of a text. Scripts for sub-agents, which are inside another one, do not count."""
    script: Json = {}
    place = text.find(OPEN)
    while place >= 0:
        script, end = json.JSONDecoder().raw_decode(text, place + len(OPEN))
        place = text.find(OPEN, end)
    return script


def _text_of(message: Json) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@asynccontextmanager
async def played_model(*, holds: bool) -> AsyncIterator[PlayedModel]:
    """Run the server on a free port of loopback."""
    model = PlayedModel(holds=holds)
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/v1/chat/completions", model.answer)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    model.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield model
    finally:
        await runner.cleanup()
