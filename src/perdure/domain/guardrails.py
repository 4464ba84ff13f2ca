"""Guardrails: the compiled checks of a session's texts and tool calls.

    guardrails = Guardrails.of(config, ...)        the configurations of the layers, lowest first
    guardrails.scan("output", text)                what the local checks find
    guardrails.remote("output")                    the checks that a service makes

Streams. A text that is still growing is scanned with `final=False`: only hits that start more than `window`
characters before its end are returned (so each is complete), and what is before that point and before the
first hit may be shown. Keep the last `CONTEXT` shown characters at the beginning of the next text, and say with
`start` how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec import Struct

from perdure.domain.guardrail_checks import (
    AnyCheck,
    GuardrailAction,
    GuardrailsConfig,
    GuardrailStage,
    JudgeCheck,
    ModerationCheck,
    RemoteCheck,
)
from perdure.domain.guardrail_rules import Rule, compile_rule
from perdure.domain.guardrail_text import Subject
from perdure.domain.messages import JsonValue

CONTEXT = 2
"""Characters before and after a match that decide whether it is one."""
MAX_MATCHED = 200
"""Characters of a match that a hit shows."""
MAX_HITS = 20
"""Hits of one check in one text. A check that replaces has up to `MAX_REPLACED`."""
MAX_REPLACED = 1_000
"""Matches that are replaced one by one. What follows them counts as one more match."""
BLOCKED = "This answer was withheld because it violates a rule."
REPLACED = "[removed]"
SLOW_SCAN = 16_384
"""Characters from which on a text should be scanned in a thread."""


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
        """The hit of the whole text."""
        return _hit(_Compiled(self.index, self.id, self.check, None), stage, 0, len(text), None, reason_code)


class _Compiled(Struct, frozen=True):
    index: int
    id: str
    check: AnyCheck
    rule: Rule | None


def never() -> bool:
    """A deadline that does not come."""
    return False


class Guardrails:
    """The compiled checks of one session, of all its layers."""

    def __init__(self, checks: Iterable[AnyCheck]) -> None:
        """Compile checks. Raises InvalidInput: one of them is invalid."""
        self._checks = tuple(
            _Compiled(index, check_id(check, index), check, compile_rule(check))
            for index, check in enumerate(checks)
        )

    @classmethod
    def of(cls, configs: Iterable[GuardrailsConfig]) -> Guardrails:
        """Compile the configurations of layers, lowest first: their checks add up."""
        return cls(tightest(configs).checks)

    def __bool__(self) -> bool:
        return bool(self._checks)

    def has(self, stage: GuardrailStage) -> bool:
        """Whether there is a check of this stage."""
        return any(stage in each.check.stages for each in self._checks)

    def window(self, stage: GuardrailStage) -> int | None:
        """The characters by which a stream is held back for the checks of this stage.

        It is the longest match of a local check, and its neighbours. None: one of them needs the whole text.
        """
        longest = 0
        for each in self._at(stage):
            width = None if each.rule is None else each.rule.width
            if width is None:
                return None
            longest = max(longest, width)
        return longest + CONTEXT if self.has(stage) else 0

    def remote(self, stage: GuardrailStage) -> tuple[Remote, ...]:
        """The checks of this stage that a service makes."""
        return tuple(
            Remote(each.index, each.id, each.check)
            for each in self._at(stage)
            if isinstance(each.check, ModerationCheck | JudgeCheck)
        )

    def scan(
        self,
        stage: GuardrailStage,
        text: str,
        tool_name: str | None = None,
        *,
        start: int = 0,
        final: bool = True,
        expired: Callable[[], bool] = never,
    ) -> tuple[Hit, ...]:
        """What the local checks find in a text, in the order of the checks and, of each, of the text.

        Use a thread from `SLOW_SCAN` characters on.

        Args:
            tool_name: the tool whose arguments (JSON, as of `arguments_text`) or result the text is.
            start: characters at the beginning that are context only.
            final: whether the text is complete. Otherwise, hits that begin in the last `window` characters
                are left out; they are found when more of the text is there.
            expired: whether the time is up. A check that is not done then counts as a hit, with the reason
                `not_checked`, from where it stopped to the end of the text.
        """
        found: list[Hit] = []
        subject = Subject(text, tool_name)
        for each in self._at(stage):
            if each.rule is not None:
                found += _hits(each, stage, subject, start, final, expired)
        return tuple(found)

    def _at(self, stage: GuardrailStage) -> Iterable[_Compiled]:
        return (each for each in self._checks if stage in each.check.stages)


def _hits(
    each: _Compiled,
    stage: GuardrailStage,
    subject: Subject,
    start: int,
    final: bool,
    expired: Callable[[], bool],
) -> list[Hit]:
    rule, text = each.rule, subject.text
    assert rule is not None
    last = len(text) if final or rule.width is None else len(text) - rule.width - CONTEXT
    limit = MAX_REPLACED if each.check.action == "replace" else MAX_HITS
    found: list[Hit] = []
    end = start
    try:
        for begin, end, reason in rule.find(subject, start, expired):
            if begin > last:
                break
            if len(found) == limit:
                if each.check.action == "replace":
                    found.append(_hit(each, stage, begin, len(text), text))
                break
            found.append(_hit(each, stage, begin, end, text if rule.shows else None, reason))
    except TimeoutError:
        found.append(_hit(each, stage, end, len(text), None, "not_checked"))
    return found


def _hit(
    each: _Compiled, stage: GuardrailStage, start: int, end: int, text: str | None, reason: str | None = None
) -> Hit:
    check = each.check
    default = {"block": BLOCKED, "replace": REPLACED}.get(check.action)
    kind = str(check.__struct_config__.tag)
    return Hit(
        each.index,
        each.id,
        stage,
        kind,
        check.action,
        reason if reason == "not_checked" else check.reason_code or reason or f"{kind}_match",
        None if text is None else text[start : min(end, start + MAX_MATCHED)],
        check.replacement if check.replacement is not None and default is not None else default,
        start,
        end,
    )


def check_id(check: AnyCheck, index: int) -> str:
    """The check's own id, or one that its type and its place make."""
    return check.id or f"{check.__struct_config__.tag}_{index + 1}"


def tightest(configs: Iterable[GuardrailsConfig]) -> GuardrailsConfig:
    """All checks of several configurations, each once: a layer adds checks and takes none away."""
    return GuardrailsConfig(tuple(dict.fromkeys(check for each in configs for check in each.checks)))


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
    """The arguments of a tool call as the text that is scanned: compact JSON, with its characters unescaped."""
    return msgspec.json.encode(arguments).decode()
