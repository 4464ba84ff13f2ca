"""The inbox: what sessions wait for that a person decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping

import httpx
import msgspec
from msgspec import Struct

from perdure.client import routes
from perdure.client.errors import ApiError, BadAnswer
from perdure.client.follow import IDLE_TIMEOUT, PATIENCE, frames_of
from perdure.client.routes import Caller, path_of
from perdure.client.transport import CUT, FIRST_WAIT, MOST_WAIT, is_busy
from perdure.domain.backoff import backoff
from perdure.domain.decisions import Decision
from perdure.domain.inbox import DecideItem, InboxCount, InboxItem, InboxKind
from perdure.domain.messages import JsonObject
from perdure.domain.paging import Page
from perdure.domain.sse import Frame, SseParser


class InboxChange(Struct, frozen=True):
    """A change of the inbox: an item that was added, or the id of one that was removed."""

    added: InboxItem | None = None
    removed: str | None = None


class _Added(Struct):
    item: InboxItem


class _Removed(Struct):
    id: str


class InboxMethods(Caller):
    """The client's methods about the inbox."""

    get_inbox_item = routes.reads(
        "/v1/inbox/{}", InboxItem, "Return an item, with all arguments and their schema."
    )

    async def list_inbox(
        self,
        *,
        kind: InboxKind | None = None,
        session_id: str | None = None,
        agent: str | None = None,
        tool_name: str | None = None,
        mine: bool | None = None,
        offset: int = 0,
        limit: int = 20,
    ) -> Page[InboxItem]:
        """List what waits for people, the next deadline first.

        Args:
            kind: only items of this kind.
            session_id: only items of this session.
            agent: only items of sessions of this agent, by id or name.
            tool_name: only calls of this tool.
            mine: only what the calling user may decide.
            offset: how many items to skip.
            limit: the page size, 1 to 100.
        """
        filters = _filters(kind, session_id, agent, tool_name, mine)
        return await self.call(
            "GET", "/v1/inbox", Page[InboxItem], params=[*filters, ("offset", offset), ("limit", limit)]
        )

    async def count_inbox(
        self,
        *,
        kind: InboxKind | None = None,
        session_id: str | None = None,
        agent: str | None = None,
        tool_name: str | None = None,
        mine: bool | None = None,
    ) -> InboxCount:
        """Count what waits for people. Takes the filters of `list_inbox`."""
        filters = _filters(kind, session_id, agent, tool_name, mine)
        return await self.call("GET", "/v1/inbox/count", InboxCount, params=filters)

    async def decide_inbox_item(
        self,
        item_id: str,
        decision: Decision,
        *,
        arguments: JsonObject | None = None,
        reason: str | None = None,
    ) -> InboxItem:
        """Decide on an approval; return the item with its outcome.

        Args:
            arguments: what to call the tool with, instead of the model's arguments.
            reason: why, for the model.

        Raises:
            Conflict: somebody was faster (`already_decided`).
        """
        body = DecideItem(decision, arguments, reason)
        return await self.call("POST", path_of("/v1/inbox/{}/decision", item_id), InboxItem, body=body)

    async def answer_inbox_item(self, item_id: str, answers: Mapping[str, str | None]) -> InboxItem:
        """Answer the questions of an item; return the item with its outcome.

        Args:
            answers: by the questions' ids: the label of an option, a text, or a secret's value; None
                declines.

        Raises:
            ApiError: an answer does not fit its question (`invalid_answer`). The questions stay open.
            Conflict: somebody was faster (`already_decided`).
        """
        body = DecideItem(answers=dict(answers))
        return await self.call("POST", path_of("/v1/inbox/{}/decision", item_id), InboxItem, body=body)

    async def follow_inbox(
        self,
        *,
        kind: InboxKind | None = None,
        session_id: str | None = None,
        agent: str | None = None,
        tool_name: str | None = None,
        mine: bool | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        patience: float = PATIENCE,
    ) -> AsyncGenerator[InboxChange, None]:
        """Yield the items of the inbox as added, then every change, endlessly.

        After a lost connection, what is there is compared with what was, so that no change is missed. Takes
        the filters of `list_inbox`.

        Args:
            idle_timeout: seconds without a byte after which a connection counts as dead.
            patience: seconds without any answer after which to give up.

        Raises:
            ApiError: the server refused the request.
            Unreachable: no server answered for `patience` seconds.
        """
        filters = [*_filters(kind, session_id, agent, tool_name, mine), ("initial", True)]
        clock, known, failures = asyncio.get_running_loop().time, _Known(), 0
        last_heard = clock()
        while True:
            failure: Exception | None = None
            try:
                parser = SseParser()
                known.begin()
                async with self.transport.stream(
                    "/v1/inbox/sse", filters, idle_timeout=idle_timeout
                ) as pieces:
                    async for piece in pieces:
                        last_heard, failures = clock(), 0
                        for frame in frames_of(parser, piece):
                            for change in known.take(frame):
                                yield change
            except httpx.TransportError as error:
                if not isinstance(error, CUT):
                    raise self.transport.unreachable(error) from error
                failure = error
            except ApiError as error:
                if not is_busy(error):
                    raise
                failure = error
            if failure is not None and clock() - last_heard > patience:
                raise self.transport.unreachable(failure) from failure
            failures += 1
            await asyncio.sleep(backoff(failures, first=FIRST_WAIT, most=MOST_WAIT))


def _filters(
    kind: InboxKind | None,
    session_id: str | None,
    agent: str | None,
    tool_name: str | None,
    mine: bool | None,
) -> list[tuple[str, str | bool | int | None]]:
    return [
        ("kind", kind),
        ("session_id", session_id),
        ("agent", agent),
        ("tool_name", tool_name),
        ("mine", mine),
    ]


class _Known:
    """The items that somebody who follows the inbox knows of."""

    def __init__(self) -> None:
        self._known = set[str]()
        self._missing = set[str]()
        """Those that a new connection has not shown yet."""

    def begin(self) -> None:
        """A new connection begins: it shows the items that are there."""
        self._missing = set(self._known)

    def take(self, frame: Frame) -> Iterator[InboxChange]:
        """Yield what a frame changes."""
        try:
            match frame.event:
                case "inbox.item_added":
                    item = msgspec.json.decode(frame.data, type=_Added).item
                    self._missing.discard(item.id)
                    if item.id not in self._known:
                        self._known.add(item.id)
                        yield InboxChange(added=item)
                case "inbox.item_removed":
                    yield from self._remove(msgspec.json.decode(frame.data, type=_Removed).id)
                case "inbox.listening":
                    for gone in sorted(self._missing):
                        yield from self._remove(gone)
        except msgspec.DecodeError as error:
            raise BadAnswer(f"a frame of the inbox's stream cannot be read: {error}") from error

    def _remove(self, gone: str) -> Iterator[InboxChange]:
        self._missing.discard(gone)
        if gone in self._known:
            self._known.discard(gone)
            yield InboxChange(removed=gone)
