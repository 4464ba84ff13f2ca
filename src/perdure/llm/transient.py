"""Recognize errors that pass by themselves, whatever HTTP status a gateway puts on them."""

from __future__ import annotations

import re

from perdure.domain.words import Words

STATUSES = frozenset({408, 409, 423, 424, 425, 460, 498, 499})
"""Statuses below 500 of errors that pass, besides 429: timeouts, conflicts, a model that is being loaded."""

RATE_CODES = frozenset(
    {
        "rate_limit_error",
        "rate_limit_exceeded",
        "rate_limited",
        "429",
        "too_many_requests",
        "resource_exhausted",
        "throttling",
        "throttlingexception",
    }
)
_CODES = frozenset(
    [
        "overloaded_error",
        "overloaded",
        "server_overloaded",
        "engine_overloaded",
        "engine_overloaded_error",
        "server_busy",
        "capacity_exceeded",
        "model_loading",
        "model_not_ready",
        "modelnotreadyexception",
        "service_unavailable",
        "serviceunavailable",
        "serviceunavailableexception",
        "temporarily_unavailable",
        "unavailable",
        "502",
        "503",
        "504",
        "529",
    ]
)
_WORDS = Words(
    r"overload(?!ed (function|method))|over capacity|high (demand|load|traffic)|please retry(?! with)"
    r"|(try|retry)( your request)?( again)? (later|shortly|soon)"
    r"|try again in (\d|about|an hour|some (time|minutes)|a (few|moment|minute|second|while|bit))"
    r"|(model|it)( is|'s)?( still| currently)?( being)? load(ing|ed)\b|loading (the |a )?model"
    r"|(warm|start)ing up|cold start|not (yet )?ready|temporarily|temporary (error|failure|issue)"
    r"|currently unavailable|upstream (connect|request|timed)|no available (server|worker|capacity)"
    r"|(server|service|system|engine|queue) is (currently )?(too )?(busy|full)"
    r"|service unavailable|bad gateway|gateway time-?out|稍后|稍候|繁忙|过载|超载|正在加载|暂时"
    r"|überlastet|später (erneut|noch|wieder)|surchargé|plus tard|sobrecargad|sobrecarregad|más tarde"
    r"|mais tarde|sovraccaric|più tardi|перегружен|позже|przeciążon|混雑|混み合|しばらく|혼잡|잠시 후|과부하",
    re.IGNORECASE,
)
# These words are also part of advice about a request that is wrong.
_VAGUE = Words(
    r"\bcapacity\b|\btry again\b|\binternal (server )?error|no healthy upstream|deadline exceeded|timed? ?out"
    r"|connection (was )?(reset|refused|closed|aborted|error)",
    re.IGNORECASE,
)
_WRONG = Words(
    r"invalid|must|unsupported|not support|malformed|missing|required|reduce|shorten|too (long|large|many)"
    r"|exceeds|correct|fix\b|image|media|\burl\b|file|download|fetch",
    re.IGNORECASE,
)
_RATE = Words(
    r"too many requests|rate.?limit(ed)?\b|throttl|过于频繁|请求频率|频率(限制|过高)|限流|并发", re.IGNORECASE
)
_LONGEST = 2_000


def passing(codes: frozenset[str], message: str) -> str | None:
    """Return our code of an error that passes, by the vendor's codes and words; None for any other error."""
    message = message[:_LONGEST]
    if codes & RATE_CODES or _RATE.search(message):
        return "provider_rate_limited"
    if codes & _CODES or _WORDS.search(message):
        return "provider_unavailable"
    return "provider_unavailable" if _VAGUE.search(message) and not _WRONG.search(message) else None
