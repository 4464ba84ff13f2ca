"""Checks texts and JSON values with a session's guardrails: the local checks here, others by services."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from perdure.capabilities.guard_services import Asker, Checked, GuardServices
from perdure.capabilities.layers import Layer
from perdure.domain.errors import InvalidInput
from perdure.domain.events import EventContext, GuardrailHitData, LlmGenerationData, NewEvent
from perdure.domain.guardrail_checks import GUARDRAILS, GuardrailAction, GuardrailsConfig, GuardrailStage
from perdure.domain.guardrail_text import texts_in
from perdure.domain.guardrails import (
    BLOCKED,
    CONTEXT,
    NOT_CHECKED,
    QUICK,
    Guardrails,
    Hit,
    arguments_text,
    replaced,
)
from perdure.domain.held_text import MAX_CHAIN, Cut, HeldText
from perdure.domain.ids import MessageId, OrgId, ToolCallId, TurnId
from perdure.domain.messages import JsonValue
from perdure.domain.redaction import Redactor
from perdure.domain.spans import generation_span
from perdure.domain.times import Micros
from perdure.domain.tools import CapabilityRef

SCAN_SECONDS = 10.0
"""Seconds that the local checks of one text may take. What is not searched by then counts as a hit."""
STREAM_SECONDS, STREAM_CHARACTER = 0.05, 1e-6
"""Seconds of the event loop that searching a stream may take, and more for each character that is searched.
Of a stream that takes more, nothing more is shown before it is complete."""
STREAMED = 4_000_000
"""Steps (of `Guardrails.effort`) of one search of a stream: about 40 ms at their slowest."""
MASKED = 20_000
"""Characters that a struct with many texts is expected to have."""

MAX_LEAVES = 1_000
"""Texts in a JSON value that are searched one by one. More are searched as one text."""


T = TypeVar("T")

Part = Literal["text", "thinking", "call", "result"]


def guardrails_of(layers: Iterable[Layer]) -> Guardrails | None:
    """The guardrails of all layers, also of those of which only the policies apply; None without any.

    It is what `resolve.py` finds for an agent, without its tools, for results that come from outside.

    Raises:
        InvalidInput: a configuration is not valid.
    """
    refs = (ref for layer in layers for ref in layer.capabilities if ref.ref == GUARDRAILS)
    found = Guardrails(dict.fromkeys(check for ref in refs for check in _config_of(ref).checks))
    return found or None


def _config_of(ref: CapabilityRef) -> GuardrailsConfig:
    try:
        return msgspec.convert(ref.config or {}, GuardrailsConfig)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"the configuration of `{GUARDRAILS}` is not valid: {error}; change it",
            code="invalid_capability_config",
        ) from None


class About(Struct, frozen=True):
    """What was checked, for the events of hits."""

    turn_id: TurnId | None = None
    message_id: MessageId | None = None
    tool_call_id: ToolCallId | None = None
    tool_name: str | None = None


NOTHING = About()


class Verdict(Struct, frozen=True):
    """What became of a text or a value.

    Attributes:
        value: the text or the value with masks; whatever it is if `blocked` is set, it must not be used.
        hits: one for each check and what it does; `counts` says how many places each has found.
        blocked: the hit that blocks it.
        calls: the model calls that were made, for the log.
    """

    value: Any
    hits: tuple[Hit, ...] = ()
    counts: tuple[int, ...] = ()
    blocked: Hit | None = None
    calls: tuple[LlmGenerationData, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether it may not be used as it was."""
        return self.blocked is not None or any(hit.action == "replace" for hit in self.hits)

    def events(
        self, part: Part, context: EventContext, now: Micros, about: About = NOTHING
    ) -> list[NewEvent]:
        """The events of the model calls that were made, and of the hits."""
        found = [
            NewEvent(call, generation_span(context, f"{part}/{number}"), now)
            for number, call in enumerate(self.calls)
        ]
        for hit, count in zip(self.hits, self.counts, strict=True):
            data = hit_data(hit, part, count, about, blocked=self.blocked is not None)
            found.append(NewEvent(data, context, now))
        return found


class Guard:
    """A session's guardrails, with what makes those of services.

    Args:
        asker: who has it checked, and who pays for judges.
        redactor: redacts the session's secrets from what services receive.
    """

    def __init__(
        self,
        rules: Guardrails,
        services: GuardServices | None,
        org_id: OrgId,
        asker: Asker,
        redactor: Redactor,
    ) -> None:
        self.rules = rules
        self._services, self._org_id, self._asker, self._redactor = services, org_id, asker, redactor

    def has(self, stage: GuardrailStage) -> bool:
        """Whether there is a check of this stage."""
        return self.rules.has(stage)

    def holds(
        self, stage: GuardrailStage, tool_name: str | None = None, *, whole: bool = False
    ) -> Callable[[], HeldText] | None:
        """Return what makes the holder of a stream of text; None if nothing of this stage is checked.

        Args:
            whole: nothing is let go before the text is complete.
        """
        if not self.rules.has(stage):
            return None
        return lambda: holding(self.rules, stage, tool_name, whole=whole)

    async def scan(self, stage: GuardrailStage, text: str) -> tuple[Hit, ...]:
        """What the local checks find."""
        return await self._scanned(stage, text)

    async def text(
        self, stage: GuardrailStage, text: str, tool_name: str | None = None, *, clean: int = 0
    ) -> Verdict:
        """Check a text.

        Args:
            clean: characters at its beginning in which no match begins: they were searched already.
        """
        if not text or not self.rules.has(stage):
            return Verdict(text)
        hits = await self._scanned(stage, text, tool_name, clean)
        verdict = _verdict(replaced(text, hits), hits)
        if verdict.blocked is None and verdict.changed:
            # What stands beside a mask may be a match with it, or without what was there.
            again = await self._scanned(stage, verdict.value, tool_name)
            blocked = next((hit for hit in again if hit.action == "block"), None)
            if blocked is not None:
                verdict = _verdict(text, (*hits, blocked))
        if verdict.blocked is not None:
            return verdict
        return await self._with_services(stage, text, verdict)

    async def value(self, stage: GuardrailStage, value: JsonValue, tool_name: str | None = None) -> Verdict:
        """Check a JSON value: its JSON, and each text in it as it is, because JSON escapes some characters.

        A check that replaces masks the texts. If it matches what only the JSON has, it blocks.
        """
        if isinstance(value, str):
            return await self.text(stage, value, tool_name)
        if not self.rules.has(stage):
            return Verdict(value)
        written = arguments_text(value)
        # Each text is searched in the JSON and by itself.
        verdict = await self._search(
            stage,
            2 * len(written),
            lambda expired: _checked_value(self.rules, stage, value, tool_name, expired),
        )
        if verdict.blocked is not None:
            return verdict
        return await self._with_services(stage, written, verdict)

    async def judged(self, stage: GuardrailStage, text: str) -> Verdict:
        """What the services alone say of a text, in which local checks have masked what they find."""
        return await self._with_services(stage, text, Verdict(text))

    async def masked(
        self, stage: GuardrailStage, tool_name: str | None, mask: Callable[[Masker], T]
    ) -> tuple[T, Masker]:
        """Mask what the local checks find in something that has many texts, in a thread if that takes long.

        Returns:
            What `mask` makes of it, and the masker with what was found.
        """
        masker = Masker(self.rules, stage, tool_name)
        if self.rules.is_quick(stage, MASKED):
            return mask(masker), masker
        return await self._search(stage, QUICK, lambda expired: mask(masker)), masker

    async def _scanned(
        self, stage: GuardrailStage, text: str, tool_name: str | None = None, start: int = 0
    ) -> tuple[Hit, ...]:
        """What the local checks find from a place on, without holding up the event loop."""
        size = len(text) - (0 if self.rules.logs(stage) else start)
        return await self._search(
            stage,
            size,
            lambda expired: self.rules.scan(stage, text, tool_name, start=start, expired=expired),
        )

    async def _search(self, stage: GuardrailStage, size: int, work: Callable[[Callable[[], bool]], T]) -> T:
        """Search so many characters, in a thread if that can take long."""

        def timed() -> T:
            end = time.monotonic() + SCAN_SECONDS
            return work(lambda: time.monotonic() > end)

        if self.rules.is_quick(stage, size):
            return timed()
        if self._services is None:
            return await asyncio.to_thread(timed)
        return await self._services.search(self._org_id, timed)

    async def _with_services(self, stage: GuardrailStage, text: str, verdict: Verdict) -> Verdict:
        """Also ask the services, if they have something to read. Their hits are of the whole text."""
        remote = self.rules.remote(stage)
        if not remote or not text.strip():
            return verdict
        clean = self._redactor.text(text)
        if self._services is None:
            checked = Checked(tuple(each.hit(stage, clean, NOT_CHECKED) for each in remote))
        else:
            checked = await self._services.check(self._org_id, remote, stage, clean, self._asker)
        if not checked.hits:
            return msgspec.structs.replace(verdict, calls=checked.calls)
        whole = next((hit for hit in checked.hits if hit.action == "replace"), None)
        after = _verdict(verdict.value if whole is None else whole.replacement or "", checked.hits)
        return Verdict(
            after.value,
            (*verdict.hits, *after.hits),
            (*verdict.counts, *after.counts),
            after.blocked,
            checked.calls,
        )


def holding(
    rules: Guardrails, stage: GuardrailStage, tool_name: str | None = None, *, whole: bool = False
) -> HeldText:
    """What holds back a stream of text for these checks."""
    window, most = rules.window(stage), STREAMED // max(rules.effort(stage), 1)
    if whole or window is None or window > most:
        return HeldText(lambda text, start: (), None, CONTEXT)
    find, left = rules.finder(stage, tool_name), STREAM_SECONDS

    def search(text: str, start: int) -> Sequence[Cut]:
        nonlocal left
        if left < 0:
            return (Cut(0, len(text)),)
        began = time.thread_time()
        found = find(text, start)
        left += STREAM_CHARACTER * (len(text) - start) - (time.thread_time() - began)
        return [Cut(begin, end, _mask_of(action, mask)) for begin, end, action, mask in found]

    return HeldText(search, window, CONTEXT, most=min(most, MAX_CHAIN))


def _mask_of(action: GuardrailAction, replacement: str) -> str | None:
    return replacement if action == "replace" else None


def _verdict(value: Any, hits: Sequence[Hit]) -> Verdict:
    kinds: dict[tuple[int, str], tuple[Hit, int]] = {}
    for hit in hits:
        first, count = kinds.get((hit.check_index, hit.reason_code), (hit, 0))
        kinds[hit.check_index, hit.reason_code] = (first, count + 1)
    blocked = next((hit for hit in hits if hit.action == "block"), None)
    firsts = tuple(first for first, _ in kinds.values())
    return Verdict(value, firsts, tuple(count for _, count in kinds.values()), blocked)


def _checked_value(
    rules: Guardrails,
    stage: GuardrailStage,
    value: JsonValue,
    tool_name: str | None,
    expired: Callable[[], bool],
) -> Verdict:
    """Check a value with the local checks."""

    def scan(text: str) -> tuple[Hit, ...]:
        return rules.scan(stage, text, tool_name, expired=expired)

    of_json = scan(arguments_text(value))
    texts = list(texts_in(value))
    many = len(texts) > MAX_LEAVES
    of_texts: list[Hit] = []
    masks: dict[str, str] = {}
    for text in ("\n".join(texts),) if many else dict.fromkeys(texts):
        hits = scan(text)
        of_texts += hits
        if not many and any(hit.action == "replace" for hit in hits):
            masks[text] = replaced(text, hits)
    # A check finds the same place in the JSON and in the text: it counts once.
    known = {hit.check_index for hit in of_texts}
    verdict = _verdict(value, (*of_texts, *(hit for hit in of_json if hit.check_index not in known)))
    if verdict.blocked is not None or not any(hit.action == "replace" for hit in verdict.hits):
        return verdict
    masked = value if many else _with_masks(value, masks)
    left = next((hit for hit in scan(arguments_text(masked)) if _remains(hit)), None)
    if left is None:
        return msgspec.structs.replace(verdict, value=masked)
    blocked = msgspec.structs.replace(left, action="block")
    same = [hit.check_index == left.check_index for hit in verdict.hits]
    hits = tuple(blocked if each else hit for hit, each in zip(verdict.hits, same, strict=True))
    more = () if any(same) else (blocked,)
    return Verdict(masked, (*hits, *more), (*verdict.counts, *(1 for _ in more)), blocked)


def _remains(hit: Hit) -> bool:
    """Whether a check still finds something in a value with masks."""
    return hit.action == "block" or (hit.action == "replace" and hit.matched != hit.replacement)


def _with_masks(value: Any, masks: dict[str, str]) -> Any:
    """The value with these texts replaced."""
    root: list[Any] = [value]
    waiting: list[tuple[Any, Any]] = [(root, 0)]
    while waiting:
        holder, key = waiting.pop()
        before = holder[key]
        after: Any = before
        if isinstance(before, str):
            after = masks.get(before, before)
        elif isinstance(before, dict):
            after = {masks.get(name, name): each for name, each in before.items()}
            waiting += [(after, name) for name in after]
        elif isinstance(before, list | tuple):
            after = list(before)
            waiting += [(after, index) for index in range(len(after))]
        holder[key] = after
    return root[0]


def hit_data(
    hit: Hit, part: Part, count: int = 1, about: About = NOTHING, *, blocked: bool = False
) -> GuardrailHitData:
    """The data of the event of a hit.

    Args:
        blocked: what was checked is blocked, so nobody is asked about it.
    """
    return GuardrailHitData(
        GUARDRAILS,
        hit.check_id,
        hit.stage,
        "log" if blocked and hit.action == "ask" else hit.action,
        hit.reason_code,
        hit.rule_type,
        part,
        count,
        about.turn_id,
        about.message_id,
        about.tool_call_id,
        about.tool_name,
    )


class Masker(Redactor):
    """Masks what the local checks find in the texts of a struct, with the interface of a redactor.

    A text that a check blocks is replaced as a whole.

    Attributes:
        hits: what was found.
    """

    def __init__(self, rules: Guardrails, stage: GuardrailStage, tool_name: str | None = None) -> None:
        super().__init__({})
        self._rules, self._stage, self._tool = rules, stage, tool_name
        self.hits: list[Hit] = []

    def __bool__(self) -> bool:
        return self._rules.has(self._stage)

    def text(self, text: str, *, cut: bool = False) -> str:
        """The text with masks; the same object if nothing is found."""
        hits = self._rules.scan(self._stage, text, self._tool)
        if not hits:
            return text
        self.hits += hits
        verdict = _verdict(text, hits)
        if verdict.blocked is not None:
            return withheld(verdict.blocked)
        return replaced(text, hits) if verdict.changed else text

    def value(self, value: Any) -> Any:
        """The value with masks in its texts; the same object if nothing is found."""
        masks = {text: self.text(text) for text in dict.fromkeys(texts_in(value))}
        changed = {text: mask for text, mask in masks.items() if mask != text}
        return _with_masks(value, changed) if changed else value

    def verdict(self) -> Verdict:
        """What was found in all texts so far."""
        return _verdict(None, self.hits)


def withheld(hit: Hit) -> str:
    """What stands for a tool's output that a check has blocked."""
    return replacement_of(hit, f"[withheld by a guardrail: {hit.reason_code}]")


def replacement_of(hit: Hit, default: str) -> str:
    """The text that takes the place of what a check has blocked."""
    return hit.replacement if hit.replacement and hit.replacement != BLOCKED else default
