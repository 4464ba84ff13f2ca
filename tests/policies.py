"""A policy hook for tests: a real HTTP server that decides as told, and sessions that ask it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from tests.hooks import SECRET, Received, Receiver, receiving
from tests.talk import Json

Decide = Callable[[Json], Json | web.Response]
ALLOW: Json = {"decision": "allow"}


class PolicyHook(Receiver):
    """A hook.

    Attributes:
        decide: makes its answers; it allows everything by default.
        held: the kind of event whose questions wait while `open` is cleared; None for all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.decide: Decide = lambda question: ALLOW
        self.held: str | None = None
        self.answer = self._answer

    async def wait(self, received: Received) -> None:
        if self.held in (None, received.json["event"]):
            await super().wait(received)

    def _answer(self, received: Received) -> web.Response:
        assert received.is_signed_with(SECRET), received.headers
        decided = self.decide(received.json)
        return decided if isinstance(decided, web.Response) else web.json_response(decided)

    def asked(self, event: str) -> list[Json]:
        """The questions about this kind of event, in the order in which they came."""
        return [each.json for each in self.came if each.json["event"] == event]

    def config(self, *events: str, path: str = "/hook", **more: Any) -> Json:
        """A configuration that names this hook."""
        return {"url": self.url(path), "secret": SECRET, "events": list(events) or ["before_tool"], **more}

    def ref(self, *events: str, **more: Any) -> Json:
        """The capability with this hook, as a session names it."""
        return {"ref": "policy_hook", "config": self.config(*events, **more)}


@contextlib.asynccontextmanager
async def deciding() -> AsyncIterator[PolicyHook]:
    """Open a hook."""
    async with receiving(PolicyHook()) as hook:
        yield hook


def only_for(tool: str, decided: Json | web.Response) -> Decide:
    """Decide so about the calls of one tool, and allow all others."""
    return lambda question: decided if question.get("tool_call", {}).get("name") == tool else ALLOW


def result_of(events: list[Json], call_id: str) -> Json:
    """The data of the event that completes a call."""
    (found,) = [
        each["data"]
        for each in events
        if each["type"] == "tool.completed" and each["data"]["tool_call_id"] == call_id
    ]
    return found


def decisions_in(events: list[Json]) -> list[Json]:
    """The data of the events about hooks' decisions."""
    return [each["data"] for each in events if each["type"] == "hook.decided"]


def text_of_result(data: Json) -> str:
    """The text of a call's result."""
    return "".join(part.get("text", "") for part in data.get("result") or ())
