"""Who decides on an approval, how, and from where, as the log records it."""

from __future__ import annotations

import re

from perdure.api.kernel.call import Call
from perdure.domain.decisions import Via
from perdure.domain.inbox import Decider
from perdure.domain.visible import visible_line

MAX_AGENT = 300
"""Characters of the program's name that are logged with a decision."""

_ADDRESS = re.compile(r"\[?[0-9A-Fa-f:.]{2,45}\]?(:\d{1,5})?")
_OWN: dict[str, Via] = {"perdure-cli": "cli", "perdure-chat": "chat"}
"""Our own programs, by the names that they send."""


def decider_of(call: Call) -> Decider:
    """Return what the log says about who decides with this request."""
    user_agent = user_agent_of(call)
    via = _OWN.get((user_agent or "").partition("/")[0], "api")
    return Decider(call.caller, via, address_of(call), user_agent)


def address_of(call: Call) -> str | None:
    """Return the address of whoever is connected, and, if that is a proxy, whose request it says it forwards.

    Anybody can claim to be a proxy, so both are recorded.
    """
    claimed = (call.header(b"x-forwarded-for") or "").partition(",")[0].strip()
    if not _ADDRESS.fullmatch(claimed):
        return call.address
    return f"{call.address or 'unknown'} (forwarded for {claimed})"


def user_agent_of(call: Call) -> str | None:
    """Return what the program that sent the request says it is. Its name cannot control a terminal."""
    name = call.header(b"user-agent")
    return visible_line(name[:MAX_AGENT]) if name else None
