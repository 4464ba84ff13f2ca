"""Conversations read from the log, on both databases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perdure.domain.compaction import ContextCompactedData
from perdure.domain.events import EventContext, InputMessageData, NewEvent
from perdure.domain.ids import new_id
from perdure.domain.messages import Message, TextPart, text_of
from perdure.engine.conversation_cache import read_conversation
from perdure.store.database import Database, Row, Tx
from perdure.store.sessions import append
from tests.conformance.desk import NOW
from tests.conformance.test_workspaces_store import new_session


class Counting:
    """A read that counts its statements."""

    def __init__(self, inner: Tx) -> None:
        self._inner = inner
        self.statements = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def all(self, sql: str, *args: Any) -> list[Row]:
        self.statements += 1
        return await self._inner.all(sql, *args)

    async def one(self, sql: str, *args: Any) -> Row | None:
        self.statements += 1
        return await self._inner.one(sql, *args)


def said(text: str) -> NewEvent:
    message = Message(new_id("message"), "user", (TextPart(text),), "2026-01-01T00:00:00.000000Z")
    return NewEvent(InputMessageData(message), EventContext(), NOW)


def compacted(data: ContextCompactedData) -> NewEvent:
    return NewEvent(data, EventContext(), NOW)


async def read_after(database: Database, events: Sequence[NewEvent]) -> tuple[list[str], int]:
    """Read a conversation with these events from the log; return its texts and the number of statements."""
    row = await new_session(database)
    row, _ = await database.write(lambda tx: append(tx, row, events, now=NOW))

    async def body(tx: Tx) -> tuple[list[str], int]:
        counting = Counting(tx)
        conversation = await read_conversation(counting, row.id, row.head, 10_000)  # type: ignore[arg-type]
        return [text_of(message.content) for message in conversation.prompt(10_000)[0]], counting.statements

    return await database.read(body)


async def test_summaries_that_came_to_nothing_cost_a_reader_no_statement_each(database: Database) -> None:
    failed = compacted(ContextCompactedData("none", 3, 3, 1, error='no "strategy_used":"summary" to be had'))
    summary = compacted(ContextCompactedData("summary", 3, 2, 1, summary="They told a story.", after=1))
    few, statements = await read_after(database, [said("old"), said("kept"), summary, failed])
    many, same = await read_after(database, [said("old"), said("kept"), summary, *[failed] * 200])
    assert same == statements
    assert few == many
    assert "They told a story." in few[0]
    assert "old" not in few
