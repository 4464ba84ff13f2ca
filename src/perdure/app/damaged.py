"""What readers of a log get in place of events that cannot be decoded, because their rows are damaged.

One damaged row must not make the rest of its session unreadable.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from perdure.domain.errors import Damaged
from perdure.domain.events import Event, InputMessageData, OutputMessageCompletedData
from perdure.domain.ids import MessageId
from perdure.domain.messages import Message, Role, TextPart
from perdure.domain.times import to_rfc3339
from perdure.store.agents import AgentRow
from perdure.store.harnesses import HarnessRow
from perdure.store.sessions import SessionRow

Row = TypeVar("Row", SessionRow, AgentRow, HarnessRow)

_NOTE = "[This part of the log cannot be read: its row in the database is damaged.]"
_EMPTY = "{}"
_ROLES: dict[str, Role] = {InputMessageData.kind: "user", OutputMessageCompletedData.kind: "agent"}


def presentable(event: Event) -> Event:
    """The event with an empty object in place of context or data that is no JSON, and without such extras.

    Otherwise, one damaged row would make the whole list, or a frame of the stream, invalid JSON.
    """
    if _is_json(event.context) and _is_json(event.data) and _is_json(event.metadata) and _is_json(event.tags):
        return event
    return msgspec.structs.replace(
        event,
        context=event.context if _is_json(event.context) else _EMPTY,
        data=event.data if _is_json(event.data) else _EMPTY,
        metadata=event.metadata if _is_json(event.metadata) else None,
        tags=event.tags if _is_json(event.tags) else None,
        _wire=None,
    )


def _is_json(text: object) -> bool:
    if text is None:
        return True
    if not isinstance(text, str):
        return False  # SQLite stores any type in any column
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


def damaged_message(event: Event) -> Message:
    """The message in place of one that cannot be read. It says so, and has the event's place and time."""
    return Message(
        MessageId(f"message_{event.id[6:]}"),
        _ROLES.get(event.type, "agent"),
        (TextPart(_NOTE),),
        to_rfc3339(event.ts),
        metadata={"error": True},
    )


def without_damage(row: Row) -> Row:
    """The row with defaults in place of columns that cannot be decoded, to show it.

    Not to run it: its configuration may have had policies.
    """
    replaced: dict[str, str] = {}
    for name, read, default in (("config", row.config_struct, "{}"), ("tags", row.tag_list, "[]")):
        try:
            read()
        except Damaged:
            replaced[name] = default
    return msgspec.structs.replace(row, **replaced)
