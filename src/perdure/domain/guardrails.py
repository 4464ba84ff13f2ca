"""Guardrails: the compiled checks of a session's texts and tool calls.

    guardrails = Guardrails(checks)                the checks of all layers, those of the lowest first
    guardrails.scan("output", text)                what the local checks find
    guardrails.remote("output")                    the checks that a service makes

Streams. In a text that is still growing, a hit is certain if it begins more than `window` characters before
the end. What is before that point and before the first hit may be shown. Keep the last shown character at the
beginning of the next text, and say so with `start=1`: otherwise `^` would match there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import msgspec
from msgspec import Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.guardrail_checks import (
    AnyCheck,
    GuardrailAction,
    GuardrailStage,
    JudgeCheck,
    LocalCheck,
    ModerationCheck,
    RemoteCheck,
    type_of,
)
from perdure.domain.guardrail_rules import Found, Rule, compiled_rule, width_of
from perdure.domain.guardrail_text import Subject
from perdure.domain.messages import JsonValue

CONTEXT = 1
"""Characters before and after a match that decide whether it is one."""
MAX_MATCHED = 200
"""Characters of a match that a hit shows."""
MAX_HITS = 20
"""Hits of one check in one text. A check that replaces has up to `MAX_REPLACED`."""
MAX_REPLACED = 1_000
"""Matches that are replaced one by one. What follows them counts as one more match."""
NOT_CHECKED = "not_checked"
"""The reason of a hit that stands for what could not be checked."""
BLOCKED = "This answer was withheld because it violates a rule."
REPLACED = "[removed]"
QUICK = 2_000_000
"""Steps (of `Guardrails.effort`) that may be made without a thread: about 20 ms at their slowest."""


class Hit(Struct, frozen=True, omit_defaults=True):
    """What a check found.

    Attributes:
        check_index: the check's place in the session's checks, those of lower layers first.
        matched: the beginning of what matched, at most 200 characters; None for a tool's name alone and for
            services.
        replacement: the text that takes its place; None for `log` and `ask`.
        start, end: where it matched, in characters; 0 and the text's length for a whole text.
    """

    check_index: int
    check_id: str
    stage: GuardrailStage
    rule_type: str
    action: GuardrailAction
    reason_code: str
    matched: str | None = None
    replacement: str | None = None
    start: int = 0
    end: int = 0


class Remote(Struct, frozen=True):
    """A check that a service makes (`check.timeout` in seconds, `check.on_failure`)."""

    index: int
    id: str
    check: RemoteCheck

    def hit(self, stage: GuardrailStage, text: str, reason_code: str | None = None) -> Hit:
        """The hit of the whole text.

        Args:
            reason_code: what the service says, if the check has no reason of its own; or `not_checked`.
        """
        return _hit(self.index, self.check, stage, (0, len(text), reason_code), None)


def never() -> bool:
    """A deadline that does not come."""
    return False


class Guardrails:
    """The checks of one session, of all its layers. Rules are compiled when they are first used.

    Args:
        checks: those of lower layers first.
    """

    def __init__(self, checks: Iterable[AnyCheck] = ()) -> None:
        self._checks = tuple(enumerate(checks))
        self._widths = tuple(width_of(check) for _, check in self._checks)
        # Rules are kept by the checks' JSON: its hash is computed once, that of a struct each time.
        self._keys = tuple(msgspec.json.encode(check) for _, check in self._checks)
        self._efforts: dict[GuardrailStage, int] = {}

    def __bool__(self) -> bool:
        return bool(self._checks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Guardrails) and self._checks == other._checks

    def __hash__(self) -> int:
        return hash(self._checks)

    def has(self, stage: GuardrailStage) -> bool:
        """Whether there is a check of this stage."""
        return any(stage in check.stages for _, check in self._checks)

    def window(self, stage: GuardrailStage) -> int | None:
        """The characters by which a stream is held back for the checks of this stage.

        It is the longest match of a local check, and its neighbours. None: one of them needs the whole text.
        A check that only logs holds nothing back.
        """
        longest = 0
        for (_, check), width in zip(self._checks, self._widths, strict=True):
            if stage in check.stages and check.action != "log":
                if width is None:
                    return None
                longest = max(longest, width + CONTEXT)
        return longest

    def effort(self, stage: GuardrailStage) -> int:
        """What searching one character takes at its worst, in steps of about 11 ns.

        A pattern of a few thousand instructions can take milliseconds for a line, so what must not wait for
        a search asks first.
        """
        if stage not in self._efforts:
            local = (
                key
                for (_, check), key in zip(self._checks, self._keys, strict=True)
                if stage in check.stages and not isinstance(check, ModerationCheck | JudgeCheck)
            )
            self._efforts[stage] = sum(map(_effort, local))
        return self._efforts[stage]

    def logs(self, stage: GuardrailStage) -> bool:
        """Whether there is a check of this stage that only logs."""
        return any(check.action == "log" and stage in check.stages for _, check in self._checks)

    def is_quick(self, stage: GuardrailStage, size: int) -> bool:
        """Whether so many characters may be searched without a thread."""
        return self.effort(stage) * size <= QUICK

    def remote(self, stage: GuardrailStage) -> tuple[Remote, ...]:
        """The checks of this stage that a service makes."""
        return tuple(
            Remote(index, check_id(check, index), check)
            for index, check in self._checks
            if isinstance(check, ModerationCheck | JudgeCheck) and stage in check.stages
        )

    def finder(
        self, stage: GuardrailStage, tool_name: str | None = None
    ) -> Callable[[str, int], list[tuple[int, int, GuardrailAction, str]]]:
        """What finds the matches of the local checks in the pieces of a stream, faster than `scan`.

        Its function gets a piece and how many characters at its beginning are context only. It returns where
        each match begins and ends, the action, and the replacement. Checks that only log are left out.
        """
        rules: list[tuple[Rule | None, GuardrailAction, str]] = []
        for (_, check), key in zip(self._checks, self._keys, strict=True):
            if check.action == "log" or stage not in check.stages:
                continue
            if not isinstance(check, ModerationCheck | JudgeCheck):
                mask = REPLACED if check.replacement is None else check.replacement
                try:
                    rules.append((compiled_rule(key), check.action, mask))
                except InvalidInput:  # as in `_hits`: nothing is known of it, so everything counts as a hit
                    rules.append((None, check.action, mask))

        def find(text: str, start: int) -> list[tuple[int, int, GuardrailAction, str]]:
            subject = Subject(text, tool_name)
            found: list[tuple[int, int, GuardrailAction, str]] = []
            for rule, action, mask in rules:
                if rule is None:
                    found.append((start, len(text), action, mask))
                    continue
                found += [(begin, end, action, mask) for begin, end, _ in rule.find(subject, start, never)]
            return found

        return find

    def scan(
        self,
        stage: GuardrailStage,
        text: str,
        tool_name: str | None = None,
        *,
        start: int = 0,
        expired: Callable[[], bool] = never,
    ) -> tuple[Hit, ...]:
        """What the local checks find in a text, in the order of the checks and, of each, of the text.

        Use a thread unless `effort` says that it is quick.

        Args:
            tool_name: the tool whose arguments (JSON, as of `arguments_text`) or result the text is.
            start: characters at the beginning that are context only, but for checks that only log: a stream
                is not held back for them, so that its pieces were not searched for their matches.
            expired: whether the time is up. A check that is not done then counts as a hit, with the reason
                `not_checked`, from where it stopped to the end of the text.
        """
        subject = Subject(text, tool_name)
        found: list[Hit] = []
        for (index, check), key in zip(self._checks, self._keys, strict=True):
            if stage in check.stages and not isinstance(check, ModerationCheck | JudgeCheck):
                begin = 0 if check.action == "log" else start
                found += _hits(index, check, partial(compiled_rule, key), stage, subject, begin, expired)
        return tuple(found)


def _effort(check: bytes) -> int:
    try:
        return compiled_rule(check).effort + 1
    except InvalidInput:  # nothing is searched
        return 1


def _hits(
    index: int,
    check: LocalCheck,
    compiled: Callable[[], Rule],
    stage: GuardrailStage,
    subject: Subject,
    start: int,
    expired: Callable[[], bool],
) -> Iterator[Hit]:
    """The hits of one check."""
    size = len(subject.text)
    limit = MAX_REPLACED if check.action == "replace" else MAX_HITS
    end = start
    try:
        rule = compiled()
        for count, found in enumerate(rule.find(subject, start, expired)):
            begin, end, reason = found
            shown = subject.text if rule.shows else None
            if count < limit:
                yield _hit(index, check, stage, found, shown)
                continue
            if check.action == "replace":
                yield _hit(index, check, stage, (begin, size, reason), shown)
            return
    except (TimeoutError, InvalidInput):  # a pattern that an older release accepted may be invalid
        yield _hit(index, check, stage, (end, size, NOT_CHECKED), None)


def _hit(index: int, check: AnyCheck, stage: GuardrailStage, found: Found, text: str | None) -> Hit:
    start, end, reason = found
    default = {"block": BLOCKED, "replace": REPLACED}.get(check.action)
    kind = type_of(check)
    return Hit(
        index,
        check_id(check, index),
        stage,
        kind,
        check.action,
        NOT_CHECKED if reason == NOT_CHECKED else check.reason_code or reason or f"{kind}_match",
        None if text is None else text[start : min(end, start + MAX_MATCHED)],
        default if default is None or check.replacement is None else check.replacement,
        start,
        end,
    )


def check_id(check: AnyCheck, index: int) -> str:
    """The check's own id, or one that its type and its place make."""
    return check.id or f"{type_of(check)}_{index + 1}"


NO_GUARDRAILS = Guardrails()


def blocks(hits: Iterable[Hit]) -> bool:
    """Whether a hit blocks the text or the call."""
    return any(hit.action == "block" for hit in hits)


def replaced(text: str, hits: Sequence[Hit]) -> str:
    """The text with the hits of checks that replace, replaced. Hits that overlap are replaced as one."""
    spans = sorted((hit for hit in hits if hit.action == "replace"), key=lambda hit: (hit.start, -hit.end))
    parts: list[str] = []
    done = 0
    for hit in spans:
        if hit.start >= done:
            parts += text[done : hit.start], hit.replacement or ""
        done = max(done, hit.end)
    return "".join((*parts, text[done:]))


def arguments_text(arguments: JsonValue) -> str:
    """The arguments of a tool call as the text that is scanned: compact JSON, characters unescaped."""
    return msgspec.json.encode(arguments).decode()
