"""Find the optional parameters that a server refused, in the words of vendors, model servers and gateways.

Drivers send parameters that most servers of their protocol know: `stream_options`, `prompt_cache_key`, marks
for caching. A server that knows less refuses the call, and nearly always names the parameter: in a field of
its error, or in its message. A call can do without these parameters, so it is made again without them.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice

from perdure.domain.words import Words
from perdure.llm.overflow import LONGEST, output_limit

MAX_NAMED = 8
"""Parameters that are added to a message at most."""

_MAX_VALUES = 100
"""Values of an error that are looked at: an answer that is none may have millions."""

_KIND = re.compile(
    r"un(supported|known|recogni[sz]ed|expected|permitted)|not (supported|allowed|permitted|recognized|known)"
    r"|extra|additional|forbidden|disallowed|invalid_value|does ?n.t support|does not support|不支持|未知",
    re.IGNORECASE,
)
_PLACES = frozenset(
    {"loc", "param", "parameter", "field", "property", "keys", "path", "additionalProperty", "argument"}
)
_PLACE = re.compile(r"(?!none$|null$)[A-Za-z_][\w.\[\]-]{0,79}", re.IGNORECASE)
_REPEATED = frozenset({"input", "request", "messages", "headers", "url"})

# What servers say besides: which parameters they know, and in which company one of them is refused.
_ASIDE = Words(
    r"\bexpected (?:one of|an? |[`'])[^;]*|\b(?:did|perhaps) you mean[^;]*"
    r"|\b(?:known|supported|allowed|valid|accepted|available|permitted) (?:param|field|key|option|propert"
    r"|value)\w*(?: are|:| include)[^;]*|\b(?:when|if|unless|while|because|since) [^,.;]*"
    r"|(?<=ed |le )(?:together |in combination )?with\b[^,.;]*",
    re.IGNORECASE,
)
_GAP = r"(?:(?!\. )[^;]){0,80}?"
_BEFORE = (
    r"(?:un(?:supported|known|recogni[sz]ed|expected|permitted)|disallow|forbid"
    r"|(?:not|n.t|cannot|never) (?:currently |yet )?(?:support|allow|accept|permit|recogni[sz]e|underst|know"
    r"|have|specif|set|use|be used)|extra|additional|invalid|illegal|no (?:such )?(?:field|param|argument"
    r"|property|attribute|option|key)|不支持|未知|无效|不允许)"
)
_AFTER = (
    r"(?:(?:not|n.t|no longer|only|never)\b.{0,20}?(?:support|allow|accept|permit|recogni[sz]|implement"
    r"|available|enabled|valid|expected|known|applicable|mapped|compatible)|un(?:supported|known|recogni[sz]ed"
    r"|expected|permitted|available)|extra|forbidden|deprecated|disallowed|invalid|must (?:be|not)|may only"
    r"|can only|cannot|can.t|should (?:be|not)|additional propert|不支持|无效|未知|不允许)"
)
_PARAMETER = r"(?:param|argument|field|propert|key|name|option|input|supplied|flag)\w*(?:\(s\))?"


def _quoted(name: str) -> str:
    """A name that is also a word: it counts in quotes, in a path, before a colon, or after `parameter`."""
    return rf"(?:(?<=[\"'`\u201c\u2018./#\[{{])|{_PARAMETER}[:=]? ?){name}(?!\w)|(?<![\w-]){name}(?= ?[:=])"


_REASONING = rf"reasoning[ _-]?effort|reasoning\W{{1,4}}effort|effort parameter|{_quoted('think(?:ing)?')}"
_STRUCTURED = (
    r"response[ _-]?format(?:\.\w+)*|json[ _-]?schema|structured[ _-]?(?:outputs?|generation)"
    r"|guided[ _-]?(?:json|decoding|generation)"
)
_NAMES: Mapping[str, str] = {
    "stream": _quoted("stream"),
    "stream_options": r"stream[ _-]?options|include[ _-]?usage",
    "parallel_tool_calls": r"parallel[ _-]?(?:tool|function)[ _-]?(?:calls?|calling|use)",
    "reasoning_effort": rf"{_REASONING}|{_quoted('reasoning')}",
    "max_tokens": r"max_?tokens",
    "max_completion_tokens": r"max_?completion_?tokens",
    "max_output_tokens": r"max_?output_?tokens",
    "temperature": r"temperature",
    "prompt_cache_key": r"prompt[ _-]?cache[ _-]?key",
    "store": _quoted("store"),
    "include": rf"{_quoted('include')}|reasoning\.encrypted_content",
    "strict": _quoted("strict"),
    "reasoning": _quoted("reasoning"),
    "reasoning.effort": r"reasoning\W{1,4}effort|reasoning[ _-]?effort",
    "reasoning.summary": r"reasoning\W{1,4}summary|reasoning summar(?:y|ies)",
    "thinking": _quoted("thinking"),
    "thinking.display": r"thinking[\w.]{0,20}\.display",
    "output_config": r"output[ _-]?config(?!\W{1,4}format)|effort parameter",
    "cache_control": r"cache[ _-]?control",
    "tool_choice": r"tool[ _-]?choice|disable[ _-]?parallel[ _-]?tool[ _-]?use",
    "response_format": _STRUCTURED,
    "text.format": rf"text\.format|{_STRUCTURED}",
    "output_config.format": rf"output[ _-]?config\W{{1,4}}format|output[ _-]?format|{_STRUCTURED}",
    "generationConfig.thinkingConfig": r"thinking[ _-]?(?:config|level|budget)|include[ _-]?thoughts",
    "generationConfig.responseJsonSchema": rf"response[ _-]?(?:json[ _-]?)?schema|{_STRUCTURED}",
    "generationConfig.maxOutputTokens": r"max_?output_?tokens",
    "generationConfig.temperature": r"temperature",
    "toolConfig": r"tool[ _-]?config|function[ _-]?calling[ _-]?config|function calling mode",
    "additionalModelRequestFields": (
        rf"additional_?model_?request_?fields|reasoning[ _]?config|{_REASONING}|output[ _-]?config"
    ),
    "inferenceConfig.maxTokens": r"max_?tokens",
    "inferenceConfig.temperature": r"temperature",
    "toolConfig.toolChoice": r"tool[ _-]?choice",
    "cachePoint": r"cache[ _-]?point|prompt caching",
    "anthropic-beta": r"anthropic[_-]beta|beta (?:flag|header|feature)s?",
}
"""By parameter: how servers name it."""

_NO_REASONING = Words(
    r"(?:not|n.t) support(?:s|ed)? (?:extended |adaptive )?(?:thinking|reasoning)(?: mode)?"
    r"(?![\w.-]| ?(?:content|block|item|trace|history|token|summar|effort))"
    r"|(?:adaptive|extended) thinking is not|invalid reasoning (?:value|effort)|\bthink value\b",
    re.IGNORECASE,
)
_GRAMMAR = Words(
    r"(?:pars\w+|compil\w+|initiali[sz]\w+|convert\w*|invalid|bad)[^.]{0,40}\b(?:grammar|samplers?)\b"
    r"|\bgrammar\b[^.]{0,40}(?:fail|error|invalid|too (?:large|complex))|schema\b[^.]{0,20}\btoo complex",
    re.IGNORECASE,
)
_OTHER_WORDS: Mapping[str, Words] = {
    "response_format": _GRAMMAR,
    "text.format": _GRAMMAR,
    "output_config.format": _GRAMMAR,
    "reasoning_effort": _NO_REASONING,
    "reasoning": _NO_REASONING,
    "thinking": _NO_REASONING,
    "additionalModelRequestFields": _NO_REASONING,
    "generationConfig.thinkingConfig": Words(r"thinking is not (?:enabled|supported)", re.IGNORECASE),
    "generationConfig.responseJsonSchema": Words(
        r"schema\b[^.]{0,40}(?:too many states|too complex)|response mime type", re.IGNORECASE
    ),
    "include": Words(r"encrypted content is not supported", re.IGNORECASE),
    **dict.fromkeys(
        ("cache_control", "cachePoint"),
        Words(
            r"(?:not|n.t) (?:allow|support|permit) (?:prompt )?cach|caching is (?:not|n.t|un)", re.IGNORECASE
        ),
    ),
    "stream": Words(
        r"in streaming mode|(?:not|n.t) support stream(?:ing)?(?![\w-]| ?options)|streaming is (?:not|un|dis)"
        r"|verified to stream",
        re.IGNORECASE,
    ),
}
"""By parameter: refusals that do not name it."""

LIMITS = frozenset(
    {
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "generationConfig.maxOutputTokens",
        "inferenceConfig.maxTokens",
    }
)
"""The names of the limit of an answer."""
_IN_HISTORY = re.compile(r"\b(?:messages|input|contents?)[.\[]", re.IGNORECASE)


_NOT_IT = re.compile(
    r"[\"'`]{0,3}(?:\.(?:cache_control|signature|encrypted_content)|,? or [\"'`]?redacted| blocks?\b)"
)
"""What follows a name that belongs to a part of the history, or to another parameter."""


def _pattern(name: str) -> Words:
    before = rf"{_BEFORE}{_GAP}(?<!\w)(?P<a>{_NAMES[name]})(?!\w)"
    return Words(rf"{before}|(?<!\w)(?P<b>{_NAMES[name]})(?!\w){_GAP}{_AFTER}", re.IGNORECASE)


_REFUSED: Mapping[str, Words] = {name: _pattern(name) for name in _NAMES}


def refused_parameters(refusal: str, sent: Iterable[str]) -> tuple[str, ...]:
    """Return which of the optional parameters that were sent the server refused, by its own words.

    Args:
        refusal: the server's message.
        sent: the parameters of the call that it can do without.
    """
    message = " ".join(refusal[:LONGEST].split())
    text = _ASIDE.sub("", message)
    found = {name for name in sent if _names(text, name)}
    if found & LIMITS and output_limit(message) is not None:
        found -= LIMITS  # the server knows the parameter, and names the largest value that it accepts
    parents = {name.partition(".")[0] for name in found if "." in name}
    return tuple(sorted(found - parents))


def _names(text: str, name: str) -> bool:
    other = _OTHER_WORDS.get(name)
    if other is not None and other.search(text):
        return True
    for match in islice(_REFUSED[name].finditer(text), MAX_NAMED):
        group = "a" if match["a"] is not None else "b"
        nested = _NOT_IT.match(text, match.end(group))
        in_history = name != "cache_control" and _IN_HISTORY.search(
            text[: match.start(group)].rpartition(" ")[2]
        )
        if not nested and not in_history:
            return True
    return False


def with_names(message: str, error: object) -> str:
    """Put in front of a refusal's message the parameters that only the error's other fields name.

    "Extra inputs are not permitted" alone tells neither people nor programs what to leave out.
    """
    places: list[str] = []
    left: deque[tuple[object, bool]] = deque([(error, False)])
    for _ in range(_MAX_VALUES):
        if not left:
            break
        value, refuses = left.popleft()
        if isinstance(value, list):
            left.extend((each, refuses) for each in value[:_MAX_VALUES])
        elif isinstance(value, dict):
            texts = (text for key, text in value.items() if isinstance(text, str) and key not in _REPEATED)
            refuses = refuses or any(_KIND.search(text, 0, LONGEST) for text in islice(texts, _MAX_VALUES))
            places += (place for key in _PLACES & value.keys() if refuses for place in _places(value[key]))
            items = islice(value.items(), _MAX_VALUES)
            left.extend((each, refuses) for key, each in items if key not in _REPEATED)
    unnamed = [place for place in dict.fromkeys(places) if place.rpartition(".")[2] not in message]
    return f"{', '.join(unnamed[:MAX_NAMED])}: {message}" if message and unnamed else message


def _places(value: object) -> list[str]:
    """The parameters that a field names: a name, a list of names, or the steps of a path."""
    if isinstance(value, list):
        steps = [str(step) for step in value[:MAX_NAMED] if isinstance(step, str | int)]
        value = ".".join(steps).removeprefix("body.")
    return [value] if isinstance(value, str) and _PLACE.fullmatch(value) else []
