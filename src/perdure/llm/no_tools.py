"""Recognize the refusals of models that accept no tools, in the words of vendors, servers and gateways."""

from __future__ import annotations

import re

from perdure.domain.words import Words

_ALL = r"[\"'`]?(?<!\w)(tools|functions|(tool|function)([ _-](use|usage|calling)| calls))[\"'`]?"
_ONE = r"[\"'`]?(tools?|functions?|(tool|function)[ _-]?(use|usage|calls?|calling))[\"'`]?"
_END = r"(?! ?(messages?|roles?|choices?|results?|ids?|history)\b)(?![\w:-])"
_ADVICE = "The model accepts no tools: choose another model, or an agent without tools."

_NO_TOOLS = Words(
    rf"(\bnot|n.t) (currently |yet |natively )?(support|accept|allow)(s|ed)? (the use of |any )?{_ONE}{_END}"
    rf"|{_ALL} ?(is|are|was)? ?(not|n.t) (currently |yet )?(support|enabl|allow|availabl|implement)"
    r"|unsupported (parameter|argument|field)s?:? [\"'`]?tools[\"'`]?(?![\w.\[])"
    r"|(no|not an?) endpoints? .{0,20}support(s|ing)? tool|\benable-auto-tool-choice\b"
    r"|tools? (param|parameter) requires? .{0,10}jinja",
    re.IGNORECASE,
)
LONGEST = 2_000
"""Characters of a refusal that are searched."""


def accepts_no_tools(message: str) -> bool:
    """Whether a refusal says that the model, as it is served, can be given no tools."""
    return _NO_TOOLS.search(message[:LONGEST]) is not None


def with_advice(message: str) -> str:
    """Add to such a refusal what to do about it."""
    return f"{message.rstrip()} {_ADVICE}"
