"""`context_compaction`.

A long conversation is summed up when it fills its room, and what it was can still be searched.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import Services
from perdure.app.events import events_around, page_of_events
from perdure.capabilities.port import READ_ONLY, Behaviour, Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.compaction import AT, KEEP, MAX_INSTRUCTIONS, Compaction
from perdure.domain.events import (
    Event,
    InputMessageData,
    OutputMessageCompletedData,
    ToolCompletedData,
    is_cancel_notice,
)
from perdure.domain.messages import JsonObject, text_of, tool_calls_of
from perdure.domain.times import to_rfc3339
from perdure.store.events import EventFilter
from perdure.store.rows import to_json

TYPES = ("input.message", "output.message.completed", "tool.completed")
"""The events that hold what was said and what tools gave."""

PAGE = 200
"""Events read at a time."""
MAX_READ = 5_000
"""Events that one search looks at; it says where the next one goes on."""
EXCERPT = 600
"""Characters of a message shown in a list of what was found."""
WHOLE = 8_000
"""Characters of each message shown around one place."""
MAX_AROUND = 10
"""Messages on each side of a place."""
MAX_FOUND = 50
FOUND = 10
"""Messages in an answer, unless the call says otherwise."""


def context_compaction(services: Services) -> Capability:
    """The capability, with its tool bound to the services."""
    tool = _history_tool(services)
    return Capability(
        id="context_compaction",
        name="Context compaction",
        description=(
            "When the conversation fills a share of its room in the model's window, the model sums up the "
            "older part and goes on from "
            "the summary. The log keeps every message, and the agent can search them."
        ),
        category="behaviour",
        config_schema=schema(
            {
                "at": {
                    "type": "number",
                    "minimum": 0.2,
                    "maximum": 0.95,
                    "default": AT,
                    "description": (
                        "Share of the room for the conversation over which its older part is summed up."
                    ),
                },
                "keep": {
                    "type": "number",
                    "minimum": 0.05,
                    "maximum": 0.8,
                    "default": KEEP,
                    "description": (
                        "Share of that room which the newest messages keep, word for word; "
                        "at most half of `at`."
                    ),
                },
                "instructions": {
                    "type": "string",
                    "maxLength": MAX_INSTRUCTIONS,
                    "description": "What else the summary should heed.",
                },
            }
        ),
        tools=lambda config: (tool,),
        behave=_behave,
    )


class _Said(Struct, frozen=True):
    """A message of the log, as text."""

    sequence: int
    role: str
    ts: int
    text: str


def _said(event: Event) -> _Said | None:
    """What an event says; None when that is nothing to remember."""
    match event.decoded():
        case ToolCompletedData(tool_name="query_history"):
            return None  # it would find itself for ever
        case ToolCompletedData() as data:
            text = data.error or (text_of(data.result) if data.result else "")
            return _Said(event.sequence, f"result of {data.tool_name}", event.ts, text)
        case OutputMessageCompletedData(error_code=None) as data:
            calls = [
                f"[calls {call.name} {to_json(call.arguments)}]"
                for call in tool_calls_of(data.message)
                if call.name != "query_history"
            ]
            text = "\n".join([text_of(data.message.content), *calls]).strip()
            return _Said(event.sequence, "agent", event.ts, text) if text else None
        case InputMessageData(message=message) if not is_cancel_notice(message, event):
            return _Said(event.sequence, "user", event.ts, text_of(message.content))
    return None


async def _query_history(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    around = arguments.get("around")
    if around is not None:
        return ToolOutcome(await _around(services, context, around))
    words = tuple(word.casefold() for word in arguments.get("query", "").split())
    before, limit = arguments.get("before"), arguments.get("limit", FOUND)
    return ToolOutcome(await _search(services, context, words, before, limit))


async def _around(services: Services, context: ToolContext, sequence: int) -> JsonObject:
    want = EventFilter(types=TYPES)
    events = await events_around(services, context, context.session_id, sequence, MAX_AROUND, want)
    found = [said for event in events if (said := _said(event)) is not None]
    return {"messages": [_shown(said, said.text[:WHOLE]) for said in found]}


async def _search(
    services: Services, context: ToolContext, words: tuple[str, ...], before: int | None, limit: int
) -> JsonObject:
    """The newest messages in which all words occur.

    A page of the log at a time, so that nobody waits for a long one.
    """
    found: list[JsonObject] = []
    read, cursor = 0, before
    while read < MAX_READ:
        page = await _page(services, context, words, cursor)
        for event in page:
            said = _said(event)
            folded = said.text.casefold() if said is not None else ""
            if said is None or not all(word in folded for word in words):
                continue
            found.append(_shown(said, _excerpt(said.text, folded, words)))
            if len(found) == limit:
                return {"messages": found, "next_before": event.sequence}
        if len(page) < PAGE:
            return {"messages": found, "next_before": None}
        read, cursor = read + len(page), page[-1].sequence
    return {"messages": found, "next_before": cursor}


async def _page(
    services: Services, context: ToolContext, words: tuple[str, ...], before: int | None
) -> list[Event]:
    # The database leaves out what has not that plain word; the rest is compared here.
    plain = max((word for word in words if word.isascii() and word.isalnum()), key=len, default=None)
    want = EventFilter(types=TYPES, before=before, text=plain)
    return await page_of_events(services, context, context.session_id, want, PAGE, newest_first=True)


def _excerpt(text: str, folded: str, words: tuple[str, ...]) -> str:
    """The part around the first word, or the beginning."""
    if len(text) <= EXCERPT:
        return text
    # Folding may change lengths: the place is then a little off, which an excerpt bears.
    at = folded.find(words[0]) if words else 0
    begin = max(0, min(at - EXCERPT // 3, len(text) - EXCERPT))
    end = begin + EXCERPT
    return f"{'...' if begin else ''}{text[begin:end]}{'...' if end < len(text) else ''}"


def _shown(said: _Said, text: str) -> JsonObject:
    return {"sequence": said.sequence, "role": said.role, "time": to_rfc3339(said.ts), "text": text}


def _history_tool(services: Services) -> Tool:
    return Tool(
        name="query_history",
        display_name="Search the conversation",
        description=(
            "Find earlier messages, tool calls and results of this conversation, also those that you are "
            "not shown any more. With "
            "`query`, the newest ones that contain all of its words; with `around`, the messages at one "
            "sequence and next to it, at "
            "greater length; with neither, the newest ones. `next_before` in an answer goes on with older "
            "ones."
        ),
        parameters=schema(
            {
                "query": {
                    "type": "string",
                    "maxLength": 200,
                    "description": "Words that must all occur, in any order and case.",
                },
                "around": {
                    "type": "integer",
                    "minimum": 1,
                    "description": "The `sequence` of a message that was found.",
                },
                "before": {
                    "type": "integer",
                    "minimum": 1,
                    "description": "Only messages before this `sequence`.",
                },
                "limit": {"type": "integer", "minimum": 1, "maximum": MAX_FOUND, "default": FOUND},
            }
        ),
        run=partial(_query_history, services),
        hints=READ_ONLY,
        spill=False,
    )


def _behave(config: Any, behaviour: Behaviour) -> Behaviour:
    given = config or {}
    rules = Compaction(given.get("at", AT), given.get("keep", KEEP), given.get("instructions"))
    return replace(behaviour, compaction=replace(rules, keep=min(rules.keep, rules.at / 2)))
