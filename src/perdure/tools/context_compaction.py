"""`context_compaction`.

Summarizes the older part of a long conversation; the log keeps every message, and the agent can search it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import Services
from perdure.app.events import EventReader, events_around
from perdure.capabilities.behaviour import Behaviour
from perdure.capabilities.port import READ_ONLY, Capability, Tool, ToolContext, ToolOutcome, schema
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
"""The events that hold messages and tool results."""

PAGE = 200
"""Events read at a time."""
MAX_READ = 5_000
"""Events that one search reads; the answer says where the next search continues."""
EXCERPT = 600
"""Characters shown of each message in a list of search results."""
WHOLE = 8_000
"""Characters shown of each message when messages around one sequence are read."""
MAX_AROUND = 10
"""Messages on each side of that sequence."""
MAX_FOUND = 50
FOUND = 10
"""Messages in an answer, unless the call says otherwise."""


def context_compaction(services: Services) -> Capability:
    """Create the capability, with its tool bound to the services."""
    tool = _history_tool(services)
    return Capability(
        id="context_compaction",
        aliases=("compaction", "infinity_context"),
        name="Context compaction",
        description=(
            "When the conversation fills a given share of its space in the context window, the model "
            "summarizes the older part and continues from the summary. The log keeps every message, and the "
            "agent can search them."
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
                        "Share of the conversation's space in the context window. When the conversation "
                        "fills more than this, its older part is summarized."
                    ),
                },
                "keep": {
                    "type": "number",
                    "minimum": 0.05,
                    "maximum": 0.8,
                    "default": KEEP,
                    "description": (
                        "Share of that space in which the newest messages are kept word for word; at most "
                        "half of `at`."
                    ),
                },
                "instructions": {
                    "type": "string",
                    "maxLength": MAX_INSTRUCTIONS,
                    "description": "Additional instructions for the summary.",
                },
            }
        ),
        tools=lambda config: (tool,),
        behave=_behave,
    )


class _Entry(Struct, frozen=True):
    """A message or tool result of the log, as text."""

    sequence: int
    role: str
    ts: int
    text: str


def _to_entry(event: Event) -> _Entry | None:
    """The event as text; None when it is of no use in a search."""
    match event.decoded():
        case ToolCompletedData(tool_name="query_history"):
            return None  # otherwise every search would find earlier searches
        case ToolCompletedData() as data:
            text = data.error or (text_of(data.result) if data.result else "")
            return _Entry(event.sequence, f"result of {data.tool_name}", event.ts, text)
        case OutputMessageCompletedData(error_code=None) as data:
            calls = [
                f"[calls {call.name} {to_json(call.arguments)}]"
                for call in tool_calls_of(data.message)
                if call.name != "query_history"
            ]
            text = "\n".join([text_of(data.message.content), *calls]).strip()
            return _Entry(event.sequence, "agent", event.ts, text) if text else None
        case InputMessageData(message=message) if not is_cancel_notice(message, event):
            return _Entry(event.sequence, "user", event.ts, text_of(message.content))
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
    batches = events_around(services, context, context.session_id, sequence, MAX_AROUND, want)
    found = [_to_entry(event) async for batch in batches for event in batch]
    entries = [entry for entry in found if entry is not None]
    return {"messages": [_as_json(entry, entry.text[:WHOLE]) for entry in entries]}


async def _search(
    services: Services, context: ToolContext, words: tuple[str, ...], before: int | None, limit: int
) -> JsonObject:
    """The newest messages that contain all words.

    Reads the log page by page, and at most MAX_READ events, so that a long log does not block the tool.
    """
    matches: list[JsonObject] = []
    read, cursor = 0, before
    while read < MAX_READ:
        page, more = await _page(services, context, words, cursor)
        for event in page:
            entry = _to_entry(event)
            folded = entry.text.casefold() if entry is not None else ""
            if entry is None or not all(word in folded for word in words):
                continue
            matches.append(_as_json(entry, _excerpt(entry.text, folded, words)))
            if len(matches) == limit:
                return {"messages": matches, "next_before": event.sequence}
        if not more:
            return {"messages": matches, "next_before": None}
        read, cursor = read + len(page), page[-1].sequence
    return {"messages": matches, "next_before": cursor}


async def _page(
    services: Services, context: ToolContext, words: tuple[str, ...], before: int | None
) -> tuple[list[Event], bool]:
    # The database filters by the longest plain word; `_search` compares the others.
    plain = max((word for word in words if word.isascii() and word.isalnum()), key=len, default=None)
    want = EventFilter(types=TYPES, before=before, text=plain)
    reader = EventReader(services, context, context.session_id, want, PAGE, newest_first=True)
    page = await reader.all()
    return page, reader.more or len(page) == PAGE


def _excerpt(text: str, folded: str, words: tuple[str, ...]) -> str:
    """The text around the first word, or the beginning of the text."""
    if len(text) <= EXCERPT:
        return text
    # Case folding may change lengths, so the position may be a little off. An excerpt can tolerate that.
    at = folded.find(words[0]) if words else 0
    begin = max(0, min(at - EXCERPT // 3, len(text) - EXCERPT))
    end = begin + EXCERPT
    return f"{'...' if begin else ''}{text[begin:end]}{'...' if end < len(text) else ''}"


def _as_json(entry: _Entry, text: str) -> JsonObject:
    return {"sequence": entry.sequence, "role": entry.role, "time": to_rfc3339(entry.ts), "text": text}


def _history_tool(services: Services) -> Tool:
    return Tool(
        name="query_history",
        display_name="Search the conversation",
        description=(
            "Find earlier messages, tool calls and results of this conversation, including those that are no "
            "longer in your context. With `query`: the newest ones that contain all of its words. With "
            "`around`: the messages at and next to one sequence, at greater length. With neither: the newest "
            "ones. To continue with older ones, pass the answer's `next_before` as `before`."
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
    settings = config or {}
    rules = Compaction(settings.get("at", AT), settings.get("keep", KEEP), settings.get("instructions"))
    return replace(behaviour, compaction=replace(rules, keep=min(rules.keep, rules.at / 2)))
