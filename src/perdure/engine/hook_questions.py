"""What policy hooks are asked: builds the requests, and sends them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.capabilities.bound_tools import BoundTool
from perdure.domain.errors import Unreadable
from perdure.domain.ids import ToolCallId, TurnId
from perdure.domain.messages import JsonObject, JsonValue, Message, ToolResultPart, text_of
from perdure.domain.policy_hooks import (
    Answer,
    Hook,
    HookEvent,
    NoDecision,
    question_id,
    read_answer,
    sealed_bytes,
)
from perdure.domain.redaction import Redactor
from perdure.domain.speakers import AgentAt
from perdure.domain.webhooks import sign
from perdure.engine.outages import outlast
from perdure.engine.site import Site
from perdure.engine.tool_output import json_of

ENVELOPE = 2_048
"""Bytes of a request that are kept free for its other fields."""
LONG = 100_000
"""Characters of a text above which its secrets are searched in a thread."""


class AskedCall(Struct, frozen=True):
    """A tool call that hooks are asked about.

    Attributes:
        shown: the arguments without the session's secrets; real: with them, as far as they are known.
        bound: the tool; None if a client runs it.
        agent: whose call it is.
    """

    turn_id: TurnId
    id: ToolCallId
    name: str
    shown: JsonValue
    real: JsonValue
    effect_key: str
    bound: BoundTool | None
    agent: AgentAt | None
    in_background: bool = False


async def ask(site: Site, hook: Hook, event: HookEvent, question: JsonObject) -> Answer:
    """Ask a hook. Raises NoDecision: it gave no answer that can be used."""
    engine, row = site.engine, site.row
    try:
        sealed = sealed_bytes(hook.secret)
        read = engine.database.read
        secret = await outlast(
            engine,
            row.id,
            lambda: read(lambda tx: engine.vault.open(tx, row.org_id, sealed, hook.binding)),
        )
    except (Unreadable, ValueError):
        raise NoDecision("its secret cannot be decrypted: set it again, with the URL") from None
    body = json_of(question).encode()
    request = sign(secret, question_id(hook, body), engine.clock.now() // 1_000_000, body)
    body = await engine.hooks.ask(row.org_id, hook.url, request, hook.timeout_seconds)
    return read_answer(body, event)


def about(site: Site, event: HookEvent, turn_id: TurnId, agent: AgentAt | None) -> JsonObject:
    """What every request has."""
    row = site.row
    return {
        "event": event,
        "organization_id": row.org_id,
        "session_id": row.id,
        "root_session_id": row.root_session_id or row.id,
        "turn_id": turn_id,
        "agent": None
        if agent is None or agent.agent_id is None
        else {"id": agent.agent_id, "version_id": agent.agent_version_id},
        "user": {"id": row.owner_id},
    }


def call_question(site: Site, hook: Hook, event: HookEvent, call: AskedCall) -> JsonObject:
    """The question about a tool call, without its result."""
    tool = None if call.bound is None else call.bound.tool
    named: JsonObject = {
        "id": call.id,
        "name": call.name,
        "run_by": "client" if tool is None else "server",
        "effect_key": call.effect_key,
        "in_background": call.in_background,
    }
    if tool is not None and call.bound is not None:
        named["capability_id"] = call.bound.capability_id
        named["hints"] = msgspec.to_builtins(tool.hints)
    if hook.include_arguments:
        room = (hook.max_body_bytes - ENVELOPE) // (1 if event == "before_tool" else 2)
        named |= _fitted_arguments(call.shown if hook.redact else call.real, room)
    return {**about(site, event, call.turn_id, call.agent), "tool_call": named}


def _fitted_arguments(arguments: JsonValue, room: int) -> JsonObject:
    written = json_of(arguments)
    if len(written.encode()) <= room:
        return {"arguments": arguments, "arguments_truncated": False}
    return {"arguments": None, "arguments_truncated": True, "arguments_text": shortened(written, room)[0]}


async def result_question(
    site: Site, hook: Hook, call: AskedCall, text: str, *, success: bool, images: int
) -> JsonObject:
    """The question about the result of a tool call, or its error."""
    question = call_question(site, hook, "after_tool", call)
    question |= {"success": success, "images": images}
    if hook.include_result:
        plain = await _redacted(site.redactor, text) if hook.redact else text
        left = hook.max_body_bytes - len(json_of(question).encode()) - 100
        fitted, cut = shortened(plain, max(left, 100))
        question |= {"result": fitted, "result_truncated": cut}
    return question


async def _redacted(redactor: Redactor, text: str) -> str:
    return await asyncio.to_thread(redactor.text, text) if len(text) > LONG else redactor.text(text)


def message_summaries(messages: Sequence[Message], hook: Hook, changeable: frozenset[str]) -> JsonObject:
    """The newest messages, as many as fit, oldest first.

    Args:
        changeable: the ids of those that the hook may change.
    """
    room = hook.max_body_bytes - ENVELOPE
    found: list[JsonObject] = []
    for message in reversed(messages[-hook.include_messages :] if hook.include_messages else ()):
        room -= 300
        if room <= 0:
            break
        text, cut = shortened(_text_of(message), room)
        room -= len(msgspec.json.encode(text))
        found.append(
            {
                "id": message.id,
                "role": message.role,
                "text": text,
                "truncated": cut,
                "changeable": message.id in changeable and not cut,
            }
        )
    return {"message_count": len(messages), "messages": found[::-1]}


def _text_of(message: Message) -> str:
    texts = [text_of(message.content)]
    for part in message.content:
        if isinstance(part, ToolResultPart):
            value = part.error if part.error is not None else part.result
            texts.append(value if isinstance(value, str) else json_of(value))
    return "\n".join(filter(None, texts))


def shortened(text: str, room: int) -> tuple[str, bool]:
    """The beginning of a text that takes at most so many bytes as JSON, and whether it is cut."""
    short = text[:room]
    while short and (size := len(json_of(short).encode())) > room:
        short = short[: min(len(short) - 1, len(short) * room // size)]
    return short, len(short) < len(text)
