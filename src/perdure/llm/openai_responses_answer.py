"""Parse answers from Responses events, or from a whole response.

The protocol says everything up to four times: in pieces, at the end of a part, at the end of its item, and in
the snapshot at the end of the response. Servers leave out some of these, and number or name items in their
own ways. Each item takes from every source what the earlier ones did not bring.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonObject, Usage
from perdure.domain.tool_arguments import ArgumentsBudget
from perdure.llm.answer_json import parsed_arguments
from perdure.llm.answer_values import (
    count,
    finish_of,
    merged,
    name_in,
    number_in,
    text_in,
    written,
)
from perdure.llm.answers import Answer, check_parts
from perdure.llm.calls_in_progress import CallInProgress
from perdure.llm.driver import ModelRequest, ModelResponse, OnDelta
from perdure.llm.failures import in_stream, is_blank
from perdure.llm.wire import Reasoning


class _Event(Struct, gc=False):
    type: Any = None
    delta: Any = None
    item: Any = None
    item_id: Any = None
    output_index: Any = None
    content_index: Any = None
    summary_index: Any = None
    response: Any = None
    error: Any = None
    name: Any = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    part: Any = None


class _Plain(Struct, gc=False):
    """What nearly every event is: a piece of text, or of a call's arguments."""

    type: Literal["response.output_text.delta", "response.function_call_arguments.delta"]
    delta: str
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    error: None = None


_TEXT_PIECES = frozenset({"response.output_text.delta", "response.refusal.delta", "response.text.delta"})
_TEXT_ENDS = frozenset({"response.output_text.done", "response.refusal.done", "response.text.done"})
_THOUGHT_PIECES = frozenset(
    {
        "response.reasoning_summary_text.delta",
        "response.reasoning_text.delta",
        "response.reasoning_summary.delta",
        "response.reasoning.delta",
    }
)
_ENDS = frozenset(
    {
        "response.completed",
        "response.done",
        "response.incomplete",
        "response.failed",
        "response.cancelled",
    }
)
_BEGINS = frozenset({"response.created", "response.in_progress", "response.queued"})


class _Item:
    """An item of the output, and the position at which it began."""

    __slots__ = (
        "call",
        "calls",
        "chars",
        "ended",
        "ids",
        "index",
        "initial",
        "kind",
        "parts",
        "reasoning",
        "size",
        "text",
    )

    def __init__(self, kind: str, chars: int, calls: int) -> None:
        self.kind = kind
        self.index: int | None = None
        self.ids: set[str] = set()
        # The numbers of the parts whose text has come.
        self.parts: set[int | None] = set()
        self.call: CallInProgress | None = None
        # Text that came with the beginning of the item, or of a part. The pieces repeat it, if there are any.
        self.initial: list[str] = []
        self.text: list[str] = []
        self.size = 0
        self.reasoning: JsonObject | None = None
        self.ended = False
        self.chars = chars
        self.calls = calls

    def whole_text(self) -> str:
        """Return the text that has come for this item."""
        return "".join(self.text)

    def missing(self, whole: str) -> str | None:
        """What a text adds to that of this item; None if it does not repeat it. Costs what the text costs."""
        if len(whole) < self.size or not whole.startswith(self.whole_text()):
            return None
        return whole[self.size :]

    def is_another_call(self, item: JsonObject) -> bool:
        """Whether the calls' ids show that this is not the same call."""
        call_id = name_in(item.get("call_id"))
        return self.call is not None and bool(call_id and self.call.id) and self.call.id != call_id


class ResponsesAnswer(Answer):
    """An answer that arrives in Responses events."""

    __slots__ = ("_by_id", "_by_index", "_items", "_last", "_latest", "_marked", "_open", "_parts")
    decoder = msgspec.json.Decoder(_Event)
    plain_decoder = msgspec.json.Decoder(_Plain)

    def __init__(self, on_delta: OnDelta, secrets: tuple[str, ...] = ()) -> None:
        super().__init__(on_delta, secrets)
        self._items: list[_Item] = []
        self._latest: dict[str, _Item] = {}
        """By their kinds: the items that began last."""
        self._open: dict[str, dict[int, _Item]] = {}
        """By their kinds, and by their ids in the process: the items that have not ended."""
        self._by_id: dict[str, _Item] = {}
        self._by_index: dict[int, _Item] = {}
        self._parts: set[tuple[str | int | None, int | None]] = set()
        # Where the last event belongs, and its item, if it was a piece that more pieces may follow.
        self._last: tuple[tuple[object, ...], _Item] | None = None
        self._marked = False

    def take_plain(self, piece: _Plain) -> bool:
        """Take a piece that belongs where the one before it does."""
        if self._last is None or self._last[0] != _place(piece):
            return False
        item = self._last[1]
        if item.call is not None:
            item.call.add(piece.delta)
        else:
            self._add_text(item, piece.delta)
        return True

    def take(self, event: _Event, name: str) -> bool:
        """Take one event; returns whether it is one of the protocol's."""
        kind = event.type if isinstance(event.type, str) and event.type else name
        self._last = None
        if kind in _TEXT_PIECES:
            item = self._item_of(event, "message")
            item.parts.add(number_in(event.content_index))
            self._add_text(item, text_in(event.delta))
            self._last = _place(event), item
        elif kind == "response.function_call_arguments.delta":
            item = self._item_of(event, "function_call")
            self._call_in(item).add(event.delta)
            self._last = _place(event), item
        elif kind in _THOUGHT_PIECES:
            self._add_thinking(event, text_in(event.delta))
        elif kind in _TEXT_ENDS:
            self._end_part(event, text_in(event.text or event.refusal))
        elif kind == "response.content_part.done":
            self._end_part(event, _content_text(event.part))
        elif kind == "response.content_part.added":
            self._begin_part(event, _content_text(event.part))
        elif kind == "response.function_call_arguments.done":
            call = self._call_in(self._item_of(event, "function_call"))
            call.name = call.name or name_in(event.name)
            call.complete(event.arguments)
        elif kind == "response.output_item.added":
            self._begin(number_in(event.output_index), event.item)
        elif kind == "response.output_item.done":
            self._end(number_in(event.output_index), event.item)
        elif kind in _ENDS:
            self._finish(event.response if isinstance(event.response, dict) else {}, kind, event.error)
        elif kind in _BEGINS:
            self._describe(event.response)
        else:
            return is_blank(event.error) and kind.startswith("response.") and kind != "response.error"
        return True

    def take_odd(self, event: JsonObject) -> None:
        """Take a whole response in place of a stream."""
        if event.get("object") == "response" or isinstance(event.get("output"), list):
            self._finish(event, "", None)

    def end(self) -> None:
        """Take the end mark of another protocol; this one ends with its last event, if that comes."""
        self._marked = True

    @property
    def complete(self) -> bool:
        """Whether the whole answer has arrived: also if a server ends its stream, but not the response."""
        return super().complete or (
            self._marked
            and all(item.ended for item in self._items)
            and any(item.kind in {"message", "function_call"} for item in self._items)
        )

    # --- items -----------------------------------------------------------------

    def _new(self, kind: str, index: int | None, *ids: str) -> _Item:
        check_parts(len(self._items))
        item = _Item(kind, self.chars, len(self.calls))
        self._items.append(item)
        self._latest[kind] = self._open.setdefault(kind, {})[id(item)] = item
        self._know(item, index, *ids)
        return item

    def _know(self, item: _Item, index: int | None, *ids: str) -> None:
        if index is not None:
            self._by_index[index] = item
            item.index = index if item.index is None else item.index
            if item.call is not None and item.call.index is None:
                item.call.index = index
        for each in ids:
            if each:
                item.ids.add(each)
                self._by_id.setdefault(each, item)

    def _call_in(self, item: _Item) -> CallInProgress:
        if item.call is None:
            item.call = self.begin_call(CallInProgress(None, None, item.index))
        return item.call

    def _item_of(self, event: _Event, kind: str) -> _Item:
        """Return the item that a piece belongs to, whose beginning may be missing or still to come."""
        identity, index = name_in(event.item_id), number_in(event.output_index)
        at = self._by_index.get(index) if index is not None else None
        if at is not None and at.kind == kind and (not identity or identity in at.ids or not at.ids):
            return at
        known = self._by_id.get(identity) if identity else None
        known = known or at
        if known is not None and known.kind == kind:
            return known
        if index is None or at is not None:
            # A name or a number that no item has: the piece belongs to the item that is being written.
            last = self._latest.get(kind)
            if last is not None and not last.ended:
                return last
        return self._new(kind, index, identity)

    def _known(self, index: int | None, item: JsonObject, kind: str, *, begins: bool) -> _Item | None:
        """Return the item that the server describes; None for a new one."""
        ids = [name_in(item.get("id")), name_in(item.get("call_id"))]
        for each in ids:
            known = self._by_id.get(each) if each else None
            if known is None or known.kind != kind or known.is_another_call(item):
                continue
            # Models repeat call ids; the items' own ids and their numbers tell such calls apart.
            if ids[0] in known.ids or not ids[0] or index is None or known.index in {None, index}:
                return known
        at = self._by_index.get(index) if index is not None else None
        if at is not None and at.kind == kind and not at.is_another_call(item):
            named = any(each and each not in at.ids for each in ids)
            return None if begins and at.ids and named else at
        if begins or index is not None:
            return None
        open_items = self._open.get(kind, {})
        only = next(iter(open_items.values())) if len(open_items) == 1 else None
        return None if only is None or only.is_another_call(item) else only

    def _begin(self, index: int | None, item: object) -> _Item | None:
        if not isinstance(item, dict):
            return None
        kind = name_in(item.get("type"))
        known = self._known(index, item, kind, begins=True) or self._new(kind, index)
        self._identify(known, index, item)
        if known.call is not None:
            known.call.initial = known.call.initial or written(item.get("arguments"))
        elif kind == "message":
            known.initial = known.initial or [_content_text(item.get("content"))]
        return known

    def _identify(self, known: _Item, index: int | None, item: JsonObject) -> None:
        if known.kind == "function_call":
            call = self._call_in(known)
            call.id = call.id or ToolCallId(name_in(item.get("call_id")))
            call.name = name_in(item.get("name")) or call.name
        self._know(known, index, name_in(item.get("id")), name_in(item.get("call_id")))

    def _end(self, index: int | None, item: object, left: _Unrepeated | None = None) -> None:
        """Take from a finished item what its pieces did not bring: the item repeats its whole content.

        Args:
            left: only for an item of the whole response, where its place may differ from its number: the
                items that came before and that none of the response's items repeats yet.
        """
        if not isinstance(item, dict):
            return
        kind = name_in(item.get("type"))
        known = self._known(index, item, kind, begins=False)
        if known is None and left is not None:
            known = left.same(item, kind)
        known = known or self._new(kind, index)
        self._identify(known, index if left is None else None, item)
        known.ended = True
        self._open[known.kind].pop(id(known), None)
        if left is not None:
            left.remove(known)
        if known.call is not None:
            known.call.complete(item.get("arguments"))
        elif kind == "message":
            self._add_missing(known, _content_text(item.get("content")))
        elif kind == "reasoning":
            self._end_reasoning(known, item)
        elif kind in {"output_text", "text"}:
            self._add_missing(known, text_in(item))

    # --- their content ---------------------------------------------------------

    def _add_text(self, item: _Item, piece: str) -> None:
        if piece:
            item.text.append(piece)
            item.size += len(piece)
            self.add_text(piece)

    def _begin_part(self, event: _Event, text: str) -> None:
        item = self._item_of(event, "message")
        if not item.initial or not item.initial[-1].endswith(text):  # the item's beginning may have said it
            item.initial.append(text)

    def _end_part(self, event: _Event, whole: str) -> None:
        item, part = self._item_of(event, "message"), number_in(event.content_index)
        missing = item.missing(whole)
        if missing is not None:
            self._add_text(item, missing)
        elif part not in item.parts:
            self._add_text(item, whole)
        item.parts.add(part)

    def _add_missing(self, item: _Item, whole: str) -> None:
        self._add_text(item, item.missing(whole) or "")

    def _add_thinking(self, event: _Event, piece: str) -> None:
        if not piece:
            return
        part = (name_in(event.item_id) or number_in(event.output_index), number_in(event.summary_index))
        if self.thinking_started and part not in self._parts:
            self.add_thinking("\n\n")
        self._parts.add(part)
        self._item_of(event, "reasoning").text.append(piece)
        self.add_thinking(piece)

    def _end_reasoning(self, known: _Item, item: JsonObject) -> None:
        # Without one of these, the item only refers to the vendor's store, which holds nothing of ours.
        if item.get("encrypted_content") or item.get("content"):
            known.reasoning = item
        if not known.text:
            text = "\n\n".join(filter(None, map(text_in, _parts(item.get("summary") or item.get("content")))))
            if text:
                known.text.append(text)
                self.add_thinking(f"\n\n{text}" if self.thinking_started else text)

    # --- the response ----------------------------------------------------------

    def _describe(self, response: object) -> None:
        if isinstance(response, dict):
            self.response_id = name_in(response.get("id")) or self.response_id
            self.model = name_in(response.get("model")) or self.model
            self.usage = merged(self.usage, _usage(response.get("usage")))

    def _finish(self, response: JsonObject, kind: str, error: object) -> None:
        self._describe(response)
        status = name_in(response.get("status"))
        if kind in {"response.failed", "response.cancelled"} or status in {"failed", "cancelled"}:
            raise in_stream(response.get("error") or error or {"code": "server_error"}, self._secrets)
        if self.done:  # it is repeated, with the usage perhaps
            return
        left = _Unrepeated(self._items)
        for index, item in enumerate(_parts(response.get("output"))):
            self._end(index, item, left)
        for known in self._items:
            if known.kind == "message" and not known.text:
                self._add_text(known, "".join(known.initial))
        if not self.calls and not self.text():  # servers without items put the text beside them
            self.add_text(text_in(response.get("output_text")))
        details = response.get("incomplete_details")
        if kind == "response.incomplete" or status == "incomplete" or (isinstance(details, dict) and details):
            self.finish_reason = finish_of(details) or "length"
        else:
            self.finish_reason = "stop"
        self.done = True

    def finished(self, request: ModelRequest) -> ModelResponse:
        """Return the response. Raises: ModelError: the stream ended too early."""
        if not self.complete:
            raise self.cut_off()
        for item in self._items:
            if item.call is not None and not item.call.id and item.ids:
                item.call.id = ToolCallId(min(item.ids))
        self.reasoning = [
            Reasoning(item.reasoning, item.chars, item.calls) for item in self._items if item.reasoning
        ]
        self.order_calls()
        return self.response(request.model, request.messages)


def _place(event: _Event | _Plain) -> tuple[object, ...]:
    return event.type, event.item_id, event.output_index, event.content_index


class _Unrepeated:
    """The items that came before, and that none of the response's items repeats yet."""

    def __init__(self, items: list[_Item]) -> None:
        self._left = {id(item): item for item in items}
        self._by_content: dict[tuple[str, str, str], list[_Item]] | None = None

    def remove(self, item: _Item) -> None:
        """Note that an item is repeated."""
        self._left.pop(id(item), None)

    def same(self, item: JsonObject, kind: str) -> _Item | None:
        """Return an item of other names that says exactly the same, so that nothing is said or done twice."""
        if kind == "function_call":
            content = _content(kind, name_in(item.get("name")), written(item.get("arguments")))
        elif kind == "message":
            content = _content(kind, "", _content_text(item.get("content")))
        else:
            return None
        if self._by_content is None:
            self._by_content = {}
            budget = ArgumentsBudget()
            for one in reversed(self._left.values()):
                self._by_content.setdefault(_content_of(one, budget), []).append(one)
                if one.kind == "message":  # which one without a text repeats, too
                    self._by_content.setdefault(("message", "", ""), []).append(one)
        found = self._by_content.get(content, [])
        while found and id(found[-1]) not in self._left:
            found.pop()
        return found[-1] if found else None


def _content_of(item: _Item, budget: ArgumentsBudget) -> tuple[str, str, str]:
    if item.call is not None:
        return _content("function_call", item.call.name, item.call.text(budget))
    return _content(item.kind, "", item.whole_text())


def _content(kind: str, name: str, text: str) -> tuple[str, str, str]:
    """What tells what items say apart: JSON that is written in different ways is the same."""
    if kind == "function_call" and not ArgumentsBudget().refusal(text):
        value = parsed_arguments(text)
        text = msgspec.json.encode(value, order="sorted").decode()
    return kind, name, text


def _parts(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _content_text(content: object) -> str:
    """Return the text of a message's parts, refusals included."""
    texts = (
        text_in(part.get("text") or part.get("refusal")) if isinstance(part, dict) else text_in(part)
        for part in _parts(content)
    )
    return "".join(texts)


def _usage(value: object) -> Usage | None:
    if not isinstance(value, dict):
        return None
    read, made = count(value.get("input_tokens")), count(value.get("output_tokens"))
    if read is None and made is None:
        return None
    details = value.get("input_tokens_details")
    details = details if isinstance(details, dict) else {}
    return Usage(
        read or 0, made or 0, count(details.get("cached_tokens")), count(details.get("cache_write_tokens"))
    )
