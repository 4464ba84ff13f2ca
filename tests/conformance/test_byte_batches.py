"""Logs with large events are read and removed a few megabytes at a time, on both databases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from perdure.domain.events import EventContext, InputMessageData, NewEvent, ReasonStartedData
from perdure.domain.history import Conversation
from perdure.domain.ids import new_id
from perdure.domain.messages import ContentPart, ImagePart, Message, TextPart, text_of
from perdure.engine.conversation_cache import ConversationCache, read_conversation
from perdure.store.database import Database, Row, Tx
from perdure.store.events import BATCH
from perdure.store.session_deletion import mark_deleted, purge_deleted
from perdure.store.session_remains import PURGED
from perdure.store.sessions import SessionRow, append
from tests.conformance.desk import NOW
from tests.conformance.test_workspaces_store import new_session

LARGE = 3 * BATCH


class Weighing:
    """A read that remembers the bytes of its largest answer."""

    def __init__(self, inner: Tx) -> None:
        self._inner = inner
        self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _weigh(self, rows: Sequence[Row]) -> None:
        self.most = max(self.most, sum(len(value) for row in rows for value in row if isinstance(value, str)))

    async def all(self, sql: str, *args: Any) -> list[Row]:
        rows = await self._inner.all(sql, *args)
        self._weigh(rows)
        return rows

    async def within(self, limit: int, large: Sequence[str], sql: str, *args: Any) -> tuple[list[Row], bool]:
        rows, more = await self._inner.within(limit, large, sql, *args)
        self._weigh(rows)
        return rows, more


def said(*parts: ContentPart) -> NewEvent:
    message = Message(new_id("message"), "user", parts, "2026-01-01T00:00:00.000000Z")
    return NewEvent(InputMessageData(message), EventContext(), NOW)


def image() -> ImagePart:
    return ImagePart(base64="A" * LARGE, media_type="image/png")


async def session_with(database: Database, events: Sequence[NewEvent]) -> SessionRow:
    row = await new_session(database)
    for event in events:
        row, _ = await database.write(lambda tx, row=row, event=event: append(tx, row, [event], now=NOW))  # type: ignore[misc]
    return row


async def read(database: Database, row: SessionRow, cached: Conversation | None) -> tuple[list[str], int]:
    """Read a conversation; return its texts and the bytes of the largest answer of the database."""

    async def body(tx: Tx) -> tuple[list[str], int]:
        weighing = Weighing(tx)
        conversation = await read_conversation(weighing, row.id, row.head, 100_000, cached)  # type: ignore[arg-type]
        return [text_of(message.content)[:9] for message in conversation.upcoming()], weighing.most

    return await database.read(body)


@pytest.mark.parametrize("cached", [False, True])
async def test_a_conversation_of_large_messages_is_read_one_by_one(database: Database, cached: bool) -> None:
    row = await session_with(database, [said(TextPart(f"message {n}" + "x" * LARGE)) for n in range(5)])
    texts, most = await read(database, row, Conversation() if cached else None)
    assert most < LARGE + BATCH
    assert texts == ([f"message {n}" for n in range(5)] if cached else ["message 4"])


async def test_images_take_none_of_the_room_for_text(database: Database) -> None:
    events = [said(TextPart("older")), *[said(TextPart(f"image {n}"), image()) for n in range(3)]]
    row = await session_with(database, events)
    texts, most = await read(database, row, None)
    assert texts == ["older", "image 0", "image 1", "image 2"]
    assert most < LARGE + BATCH


async def test_a_cached_conversation_counts_the_bytes_of_its_images(database: Database) -> None:
    called = NewEvent(ReasonStartedData(new_id("harness")), EventContext(exec_id=new_id("exec")), NOW)
    row = await session_with(database, [said(TextPart("see"), image()), called])
    for budget, kept in ((LARGE, False), (2 * LARGE, True)):
        cache = ConversationCache(budget)
        cache.put(row.id, await database.read(lambda tx: read_conversation(tx, row.id, row.head, 1_000)))
        assert (cache.take(row.id) is not None) == kept


async def test_a_deleted_log_of_large_events_is_removed_a_few_megabytes_at_a_time(database: Database) -> None:
    row = await session_with(database, [said(TextPart("x" * LARGE)) for _ in range(5)])
    await database.write(lambda tx: mark_deleted(tx, row, NOW))
    left = []
    while True:
        purged = await database.write(lambda tx: purge_deleted(tx, NOW + 1, NOW + 2))
        found = await database.read(
            lambda tx: tx.one("SELECT COUNT(*) FROM events WHERE session_id = ?", row.id)
        )
        left.append(int(found[0]) if found else 0)
        if not purged.more:
            break
    most = max(1, PURGED // LARGE)
    assert all(before - after <= most for before, after in zip([5, *left], left, strict=False))
    assert left[-1] == 0
