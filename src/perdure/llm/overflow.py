"""Recognize by its meaning that a vendor refused a prompt as too long, and find the limit that it names.

Servers have hundreds of wordings, so a list of them is never complete. What they share: they speak of the
context, the prompt or its tokens, and say that something is more than a maximum. What looks alike, but is no
overflow: limits of the answer, limits per minute, too large images, too long names, and time that ran out.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from msgspec import Struct

from perdure.domain.words import Words

LONGEST = 4_000
"""Characters of a message that are examined."""

LEAST, MOST = 1_000, 100_000_000
"""The limits in tokens that are plausible; other numbers are statuses, counts or identifiers."""

_CODES = frozenset(
    {
        "context_length_exceeded",
        "context_window_exceeded",
        "context_window_exceeded_error",
        "exceed_context_size_error",
        "model_context_window_exceeded",
        "max_context_length_exceeded",
        "max_prompt_tokens_exceeded",
        "model_max_prompt_tokens_exceeded",
        "prompt_too_long",
        "input_too_long",
        "request_too_large",
        "tokens_limit_reached",
    }
)

_NEVER = frozenset({401, 402, 403, 404, 405, 407})

_OUTPUT = Words(
    r"`?'?\b(?:default_)?(?:max|min)_?(?:completion_|output_|new_|response_)?tokens(?:_to_sample)?\b`?'?"
    r"|\bmax(?:output|completion|new)?tokens\b|\b(?:num|n)_predict\b|\bmax_gen_len\b"
    r"|\b(?:thinking[._])?budget_tokens\b|\bmaximum tokens you requested\b"
    r"|\b(?:completion|output|generated|generation|new|response|answer|reasoning|thinking) ?_?tokens?\b"
    r"|\b(?:maximum )?(?:completion|output|response|answer) (?:length|limit|size)"
)
"""Limits of the answer."""

_RATE = Words(
    r"\bper[ -]?(?:min|hour|day|sec|month)|/ ?min\b|\b(?:tpm|tpd|rpm|rpd|itpm|otpm)\b|rate[ _-]?limit"
    r"|too many requests|\bthrottl|\bquota\b|\bconcurren|\b(?:hourly|daily|weekly|monthly)\b"
    r"|\bupgrade your plan\b|\b(?:api|access) (?:token|key)"
)
_RATE_LIMIT = Words(r"\blimit:? ?(\d[\d,]*)")
_RATE_REQUESTED = Words(r"\brequested:? ?(\d[\d,]*)")
_ONE_TOO_LARGE = Words(r"\b(?:request|prompt|input|message)s? (?:is |was )?too (?:large|long|big)\b")

_TIME = Words(r"took too long|timed? ?out|deadline|longer than \d+ ?(?:s|sec|seconds|ms)\b")
_MEDIA = Words(
    r"\b(?:image|picture|photo|pixel|megapixel|pdf|audio|video|attachment|file|document|upload)(?:s|\b|_)"
)
_FIELD = Words(
    r"\b(?:name|description|(?:tool_)?call_?id|\w*_id|id|metadata|stop|tools?|functions?|user|title|url|uri"
    r"|\w*_key|key|identifier|schema|enum|parameters|properties|headers?|temperature|top_\w+|logprobs"
    r"|logit_bias|n|seed|cache_control)\b"
)
_BAD_VALUE = Words(
    r"cache_control|\btoo small\b|\binvalid (?:api )?key\b|\bflagged\b"
    r"|\b(?:at most|up to|maximum of|only) \d{1,3} (?:images?|pictures?|videos?|files?|documents?)\b"
)

_STRONG = Words(
    r"\bcontexts?\b|context[ _-]?(?:length|len|window|size|limit|overflow)|\bn_ctx|\bnum_ctx\b"
    r"|\bmax_(?:model|seq|sequence|input|context|prompt|total|position)\w*|\bprompts?\b|\bprompt_(?:tokens|len)"
    r"|prompt_len\b|\btokens\b|\btoken[ _](?:limit|count|length|window|budget|size|number)s?\b"
    r"|\b\d+ ?tokens?\b|\binputs?`? (?:tokens?|length|size|text|sequence|context|characters)"
    r"|\bsession[ _]length|\bsession_len\b|\bsequence[ _]length|\bkv[ _-]?cache\b"
    r"|\blength of (?:the |your )?(?:messages|input|prompt|conversation|request)"
    r"|\bconversation(?: history)?\b|\bchat history\b|\binput_?(?:length|len|tokens)\b|上下文|提示词"
    r"|\bn_keep\b|\bmax(?:imum)? (?:seq|sequence|context|prompt|input)\b|提示|kontekst|bağlam"
    r"|kontext|contexto|contexte|コンテキスト|プロンプト|トークン|컨텍스트|프롬프트|토큰|контекст|промпт|токен"
    r"|输入(?:的)?(?:长度|文本|内容|字|过长|token)|tokens?数|token ?长度"
)
"""Words that name the prompt or the room for it."""

_EXCESS = Words(
    r"exceed|\btoo (?:long|large|big|many|much)\b|\b(?:longer|greater|larger|bigger|more|higher) than\b"
    r"|\boverflow|\babove the\b|\bbeyond the\b|\bout ?of ?(?:range|bounds|space|room)\b|\bran out of\b"
    r"|\bat most\b|\bno (?:more|longer|larger) than\b|\bnot enough\b|\bshorten\b|\bnot fit\b|\bfull\b"
    r"|\breduce the length\b|\bsurpass|\b(?:limit|maximum) (?:was )?reached\b|超|过长|过大|太长|太大|上限"
    r"|\bover the\b|\bexhausted\b|\bzu (?:lang|groß|viele)|überschr|trop long|dépass|\bexced|\bsupera"
    r"|\bcan(?:no|')t fit\b|\bmore (?:tokens|text|input) than\b|\breached the (?:limit|maximum)\b"
    r"|\breduce (?:the |your )(?:prompt|input|context|conversation|messages?|history)\b|\bn_keep >="
    r"|muito long|tropp[oi] |przekrocz|za dług|zbyt dług|çok uzun|aş\u0131l|超え|vượt quá|quá dài"
    r"|demasiado|長すぎ|초과|너무 (?:길|긴|많)|превыш|слишком (?:длин|мног|больш)"
)
"""Words for more than there is room for."""

_BOUND = Words(
    r"\byou requested\b|\bmax(?:imum)?\b|\bmax_|\blimit|\b(?:less|fewer|shorter|smaller) than\b|<=?|>=?"
    r"|\bup to\b|\bshould be \[|\bmust be\b|\breduc|\btruncat|\btrim\b|\bonly\b|\bfewer\b|限制|最大|大于|不足"
)
"""Words for a bound. They count only with a number: "only" and "must be" stand in many other messages."""

_LARGE = Words(r"\d{3}|\d,\d{3}|\d ?k\b")

_WEAK = Words(
    r"\b(?:messages?|requests?|body|payload|inputs?|history|content|text|entity|sequence)\b|输入|消息|请求"
    r"|\b(?:eingabe|anfrage|nachricht|entrée|requête|entrada|solicitud|mensaje|richiesta|giriş|istek|zapytanie)"
    r"|запрос|сообщени|入力|リクエスト|입력|요청"
)
_CLEAR_EXCESS = Words(
    r"\btoo (?:long|large|big)\b|\btoo many (?:messages|inputs|bytes|characters)\b"
    r"|\bexceed\w* (?:[\w']+ ){0,6}?(?:limit|maximum|max|size|length|\d)|\b(?:longer|larger|bigger) than\b"
    r"|\bmaxlength\b|\bmax(?:imum)?[ _](?:length|size|allowed|bytes|characters)|\blength (?:is )?less than\b"
    r"|\b(?:size|length) limit\b|超过|超出|过长|过大|太长|太大"
    r"|\bzu (?:lang|groß)|überschr|trop long|dépass|\bexced|\bsupera|demasiado|muito long"
    r"|tropp[oi] (?:lung|grand)"
    r"|przekrocz|za dług|zbyt dług|çok uzun|aş\u0131l|長すぎ|超え|초과|너무 (?:길|긴)|превыш"
    r"|слишком (?:длин|больш)"
)

_NUMBER = Words(
    r"(?<![\w.-])(?:\d{1,3}(?:,\d{3}){1,3}|\d{3,9})"
    r"(?=tokens?\b|(?![\w-]|[.,]\d))(?! ?(?:bytes|[km]i?b\b|char))|(?<![\w.-])\d{1,4}k\b"
)
_ABOVE = Words(r"\d[^\d<>]{0,40}> ?(\d[\d,]{2,12})")
_ERROR_NUMBER = Words(r"(?<=limit )\(\d{4}\)\.?$")
"""An error's number at the end of its message."""
_NAMES_REQUEST = Words(r"(?:requested|contains?|has|had|given|got|actual|by|long|resulted in|keep)[: ]*$")
_NAMES_LIMIT = Words(
    r"(?:limit|max|máx|at most|up to|only|than|<|window|length|size|\[\d{1,3},|allowed|support|限制|最大)"
    r"[^\d]{0,40}$"
)


class Overflow(Struct, frozen=True):
    """What a vendor said about a prompt that is too long.

    Attributes:
        limit: the most tokens that it accepts, if it named them.
        requested: the tokens that the prompt had, if it named them.
    """

    limit: int | None = None
    requested: int | None = None


def overflow(status: int | None, codes: Collection[str], message: str) -> Overflow | None:
    """Return what the vendor said about a too long prompt, or None if this is another error.

    Args:
        status: the HTTP status, or None inside a stream.
        codes: the machine-readable codes, in lower case.
        message: the message for people.
    """
    if status in _NEVER:
        return None
    text = " ".join(message[:LONGEST].lower().split())
    if _CODES.intersection(codes):
        return _numbers(text)
    if status == 413 and not text:
        return Overflow()
    if _RATE.search(text) or status == 429:
        return _numbers(text) if _one_request_is_too_large(text) else None
    return _numbers(text) if _means_overflow(text) else None


def output_limit(message: str) -> int | None:
    """Return the most tokens of an answer, if the message says that the request asked for more."""
    text = " ".join(message[:LONGEST].lower().split())
    if _OUTPUT.search(text) is None or _RATE.search(text) or _means_overflow(text):
        return None
    return _numbers(text).limit


def _means_overflow(text: str) -> bool:
    if _TIME.search(text) or _BAD_VALUE.search(text):
        return False
    plain = _OUTPUT.sub(" ", text)
    if _STRONG.search(plain) and (_EXCESS.search(plain) or (_BOUND.search(plain) and _LARGE.search(plain))):
        return not (_MEDIA.search(plain) and not re.search(r"context|prompt|token", plain))
    if _MEDIA.search(plain) or _FIELD.search(plain):
        return False
    return _WEAK.search(plain) is not None and _CLEAR_EXCESS.search(plain) is not None


def _one_request_is_too_large(text: str) -> bool:
    """Whether a limit per minute can never admit this request, because it is larger than the limit itself."""
    limit, requested = _RATE_LIMIT.search(text), _RATE_REQUESTED.search(text)
    if limit is not None and requested is not None:
        return _value(requested[1]) > _value(limit[1])
    return _ONE_TOO_LARGE.search(text) is not None


def _numbers(text: str) -> Overflow:
    """Find the limit and the size of the request among the numbers of the message.

    Of two, the smaller one is the limit, unless an inequality says otherwise. One alone is the limit only if
    the words before it say so.
    """
    text = _ERROR_NUMBER.sub("", text)
    above = _ABOVE.search(text)
    found = [(match.start(), _value(match[0])) for match in _NUMBER.finditer(text)]
    found = [(at, value) for at, value in found if LEAST <= value <= MOST]
    values = sorted({value for _, value in found})
    if above is not None and LEAST <= _value(above[1]) <= MOST:
        limit = _value(above[1])
        larger = [value for value in values if value > limit]
        return Overflow(limit, larger[-1] if larger else None)
    if len(values) >= 2:
        return Overflow(values[-2], values[-1])
    if not values:
        return Overflow()
    before = text[max(found[0][0] - 60, 0) : found[0][0]]
    if _NAMES_LIMIT.search(before) and not _NAMES_REQUEST.search(before):
        return Overflow(values[0])
    return Overflow(None, None if before.endswith(" by ") else values[0])


def _value(digits: str) -> int:
    if digits.endswith("k"):
        return int(digits[:-1]) * 1_000
    return int(digits.replace(",", "") or 0)
