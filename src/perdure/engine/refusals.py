"""What a server's refusal says about the history, and which form of the history it may accept.

The words come from public reports about vendors, model servers and gateways.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec.structs import replace

from perdure.domain.errors import ModelError
from perdure.domain.events import HistoryAdaptation
from perdure.domain.messages import Message, TextPart, tool_calls_of
from perdure.domain.words import Words
from perdure.llm import adaptations
from perdure.llm.adaptations import has_images
from perdure.llm.dialects import CHAT_TYPES
from perdure.llm.driver import ModelRequest

MAX_LISTED = 200
"""How many messages without their images the log lists; with more, all images are left out."""

_WITH_REASONING = frozenset({adaptations.REASONING_WITH_CALLS, adaptations.REASONING_ALWAYS})

_IMAGES = Words(
    r"image|picture|photo|vision|multi-?modal|mmproj|\b(jpe?g|png|gif|webp|svg|bmp|heic)\b|mime|media|base64"
    r"|pixel|modalit|content (type|part|block|format)|(download|fetch|retriev|access)\w*.{0,60}(url|file)"
    r"|(url|file).{0,60}(download|fetch|retriev|access)|invalid url|only https urls",
    re.IGNORECASE,
)
_BLIND = Words(
    r"(not|n't|never|cannot) (support|accept|have|enable|allow)\w*.{0,30}"
    r"(image|vision|visual|multi-?modal|picture)(?!.{0,25}(format|type|url|size|resolution|larger|dimension))"
    r"|(images?|pictures?|vision|visual|multi-?modal\w*|image[ _-](input|content|modality|url|part)s?)"
    r"['`\")]* ((is|are|was) )?(not|only|n't|currently not|no longer|unsupported|disabled)\b"
    r"|not a (multi-?modal|vision)|no endpoints|mmproj|text[- ]only|only (supports? |accepts? )?text"
    r"|concatenate str|'list' object has no|expected string"
    r"|unknown variant|must be a (valid )?string|(expected|be|to be) a string|string_type|at most 0 image"
    r"|missing data required for image|(unsupported|without|no) (vision|image input|image support)",
    re.IGNORECASE,
)
_AT_MOST = Words(r"at most ([1-9]\d?) image", re.IGNORECASE)
_NEEDS_REASONING = Words(
    r"(reasoning|thinking).{0,80}(missing|required|must (be|contain|have|include)|pass(ed)? back|omitted"
    r"|necessary|needed)|(missing|requires?|expect(s|ed)|must (include|contain|have)|pass(ed)? back).{0,60}"
    r"(reasoning|thinking)",
    re.IGNORECASE,
)
_REFUSES_REASONING = Words(
    r"(reasoning|thinking|thought).{0,80}(not|n't|unsupported|unknown|unrecognized|unexpected|extra|invalid"
    r"|forbidden|remove)|(not|n't|unsupported|unknown|unrecognized|unexpected|extra|invalid|forbidden|remove)"
    r"\b.{0,80}(reasoning|thinking|thought)|encrypted.content",
    re.IGNORECASE,
)
_ROLES = Words(
    r"alternat|\broles?\b.{0,40}(after|before|follow|order|sequence|unexpected|must)|unexpected role"
    r"|(expected|last|first|after|before|consecutive|successive).{0,30}\brole"
    r"|(consecutive|successive|same|two|multiple).{0,30}(user|assistant|messages)"
    r"|(must|should) (start|begin|end|come|be followed|be preceded|immediately|directly)|after (a )?tool"
    r"|immediately (after|before|follow)|(user|assistant) (role )?messages? (must|should|cannot|can't|after)",
    re.IGNORECASE,
)
_IDS = Words(
    r"(tool.?call|call|tool.?use|function.?call).{0,3}ids?\b|tool_calls?\W{0,8}\w{0,4}\W{0,4}id\b|length of 9"
    r"|\bids?\b.{0,60}(length|long|characters|alphanumeric|pattern|a-z)",
    re.IGNORECASE,
)
_SYSTEM = Words(
    r"(system|developer).{0,60}(not|n't|unsupported|disabled|no longer|invalid|unknown)"
    r"|(not|n't|unsupported|invalid|unknown).{0,60}\b(system|developer)\b|only.{0,60}(user|assistant|model)"
    r".{0,40}roles?|roles?.{0,40}only.{0,40}(user|assistant|model)"
    r"|(?<![a-z])(system|developer)\W{0,3}(角色|消息|提示|ロール|역할|rolle|rol\b)"
    r"|(roll?e?|rôle|ruolo|роль)\W{1,4}(system|developer)(?![a-z])",
    re.IGNORECASE,
)
# Templates without a place for the system prompt take it for the first message of a turn.
_FIRST_ROLE = Words(r"alternat|(first|start|begin).{0,40}(user|role|message)", re.IGNORECASE)
_EITHER = Words(
    r"either content or tool|(content|text).{0,40}tool.?calls.{0,30}(not both|both|together|exclusive)"
    r"|both content and tool",
    re.IGNORECASE,
)
_TOOLS = Words(
    r"must (define|include|provide|pass|specify) .{0,20}tools|unsupported.{0,30}(tool|function)"
    r"|tools=?.{0,20}(param|field|must|required|missing)|unexpected tool|\brole.{0,30}tool|tool_?config"
    r"|thought.?signature|number of (function|tool)|tool_calls?.{0,40}must be followed"
    r"|(tool|function).?(messages?|role|call(s|ing)?|results?|use).{0,40}(not|n't|unsupported|unknown|invalid)",
    re.IGNORECASE,
)
_ABOUT_SETTINGS = Words(
    r"max_(completion_)?tokens|max_output|temperature|top_p|top_k|stream_options|parallel_tool|tool_choice"
    r"|reasoning[_.]effort|reasoning\.summary|schema|unsupported (parameter|value)|unknown (parameter|field)"
    r"|unrecognized (parameter|argument|field)|prompt_cache|billing|credit|balance|region|country",
    re.IGNORECASE,
)
# Servers that fail in their chat template, and gateways that route by ability, report other errors.
_SURELY = Words(
    r"jinja|template|roles? must|conversation role|unexpected role|system role|tool.?call.?id"
    r"|only.{0,40}\b(user|assistant|model)\b.{0,40}\broles?|\broles?\b.{0,40}(not |un)?supported"
    r"|reasoning_content|mmproj|image input|multi-?modal|vision|concatenate str|'list' object has no",
    re.IGNORECASE,
)


_ONLY_TWO_ROLES = Words(r"only.{0,60}(user|assistant|model).{0,40}roles?", re.IGNORECASE)
_ROLES_OR_TOOLS = (_TOOLS, _ROLES, _ONLY_TWO_ROLES)


def adapt(
    before: HistoryAdaptation, request: ModelRequest, provider_type: str, error: ModelError
) -> HistoryAdaptation | None:
    """Return how to change the history after a refusal; None if the refusal is not about the history.

    A refusal that names what it is about gets just that. One that explains nothing gets everything that some
    server is known to want, except what the history does not have; if that is refused too, tool calls become
    text.

    Args:
        before: how the refused history was changed.
        request: the refused request, with the history as it was sent.
        provider_type: the protocol.
        error: the refusal.
    """
    named = error.code == "invalid_model_request" or (
        error.code in {"provider_unavailable", "model_not_found"} and _SURELY.search(error.message)
    )
    if not named:
        return None
    known = replace(before, refusal=error.message)
    found = _without_images(known, request.messages, error.message)
    if found is not None or error.code == "model_not_found":
        return found
    change = _named_change(known, request, provider_type, error.message)
    if change is not None:
        return _with(known, change)
    unexplained = error.status in {None, 400, 422} and not _ABOUT_SETTINGS.search(error.message)
    return _normalised(known, request, provider_type) if unexplained else None


def _with(before: HistoryAdaptation, *changes: str) -> HistoryAdaptation:
    return replace(before, changes=tuple(dict.fromkeys((*before.changes, *changes))))


def _without_images(
    before: HistoryAdaptation, messages: Sequence[Message], refusal: str
) -> HistoryAdaptation | None:
    """Leave out the images that were refused.

    A server that has no use for images gets none. Otherwise those since the last answer are refused, or all
    if there are none since.
    """
    seen = [message for message in messages if has_images(message)]
    if not seen:
        return None
    if _BLIND.search(refusal):
        return _with(before, adaptations.NO_IMAGES)
    if not _IMAGES.search(refusal) or (_ABOUT_SETTINGS.search(refusal) and "image" not in refusal.lower()):
        return None
    if most := _AT_MOST.search(refusal):
        return _with_images_left_out(before, seen[: -int(most[1])] or seen)
    last = max((n for n, message in enumerate(messages) if message.role == "agent"), default=-1)
    newest = [message for message in messages[last + 1 :] if has_images(message)]
    return _with_images_left_out(before, newest or seen)


def _with_images_left_out(before: HistoryAdaptation, messages: Sequence[Message]) -> HistoryAdaptation:
    left_out = (*before.images_left_out, *(message.id for message in messages))
    if len(left_out) > MAX_LISTED:
        return replace(_with(before, adaptations.NO_IMAGES), images_left_out=())
    return replace(before, images_left_out=left_out)


def _named_change(
    before: HistoryAdaptation, request: ModelRequest, provider_type: str, refusal: str
) -> str | None:
    """The first change that the refusal asks for and that is not made yet."""
    facts = _Facts(request, provider_type)
    reasoning: list[str] = []
    if _NEEDS_REASONING.search(refusal) and provider_type in CHAT_TYPES:
        reasoning = [adaptations.REASONING_WITH_CALLS, adaptations.REASONING_ALWAYS]
    elif _REFUSES_REASONING.search(refusal):
        reasoning = [adaptations.NO_REASONING]
    named = [
        *reasoning,
        *([adaptations.CALLS_WITHOUT_TEXT] if _EITHER.search(refusal) else ()),
        *([adaptations.SYSTEM_AS_USER] if _SYSTEM.search(refusal) else ()),
        *([adaptations.SHORT_CALL_IDS] if _IDS.search(refusal) else ()),
        *([adaptations.ALTERNATING_ROLES] if _ROLES.search(refusal) else ()),
        *([adaptations.SYSTEM_AS_USER] if _FIRST_ROLE.search(refusal) else ()),
        *([adaptations.TOOLS_AS_TEXT] if any(word.search(refusal) for word in _ROLES_OR_TOOLS) else ()),
    ]
    return next((each for each in named if each not in before.changes and facts.affected_by(each)), None)


def _normalised(
    before: HistoryAdaptation, request: ModelRequest, provider_type: str
) -> HistoryAdaptation | None:
    """Everything at once; then tool calls as text; None if the history has none of what that changes."""
    facts = _Facts(request, provider_type)
    every = (
        adaptations.ALTERNATING_ROLES,
        adaptations.SHORT_CALL_IDS,
        adaptations.CALLS_WITHOUT_TEXT,
        adaptations.NO_REASONING,
    )
    changes = [each for each in every if each not in before.changes and facts.affected_by(each)]
    if not _WITH_REASONING.isdisjoint(before.changes):
        changes = [each for each in changes if each != adaptations.NO_REASONING]
    strict = _with(before, *changes)
    images = [message for message in request.messages if has_images(message)]
    if images:
        strict = _with_images_left_out(strict, images)
    if changes or images:
        return strict
    if adaptations.TOOLS_AS_TEXT not in before.changes and facts.affected_by(adaptations.TOOLS_AS_TEXT):
        return _with(before, adaptations.TOOLS_AS_TEXT)
    return None


class _Facts:
    """What the history has, so that no change is tried that changes nothing."""

    def __init__(self, request: ModelRequest, provider_type: str) -> None:
        answers = [message for message in request.messages if message.role == "agent"]
        calling = [message for message in answers if tool_calls_of(message)]
        chat = provider_type in CHAT_TYPES
        thinking = any(message.thinking for message in answers)
        items = any(message.reasoning_items for message in answers)
        budget = provider_type == "anthropic" and request.reasoning_effort is not None
        system = any(message.role == "system" for message in request.messages)
        self._affected = {
            adaptations.ALTERNATING_ROLES: chat and bool(calling),
            adaptations.SHORT_CALL_IDS: chat and bool(calling),
            adaptations.CALLS_WITHOUT_TEXT: chat and any(map(_has_text, calling)),
            adaptations.SYSTEM_AS_USER: chat and (bool(request.system.strip()) or system),
            adaptations.REASONING_WITH_CALLS: chat and bool(calling),
            adaptations.REASONING_ALWAYS: chat and bool(answers),
            adaptations.NO_REASONING: items or (bool(calling) and ((chat and thinking) or budget)),
            adaptations.TOOLS_AS_TEXT: bool(calling),
        }

    def affected_by(self, change: str) -> bool:
        """Whether this change makes a difference."""
        return self._affected[change]


def _has_text(message: Message) -> bool:
    return any(isinstance(part, TextPart) and part.text.strip() for part in message.content)
