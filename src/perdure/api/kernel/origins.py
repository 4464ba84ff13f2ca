"""Where a request comes from, as the log records it with a decision."""

from __future__ import annotations

import re

from perdure.api.kernel.call import Call
from perdure.domain.visible import visible_line

MAX_USER_AGENT = 300
"""Characters of a program's name that are recorded."""

_ADDRESS = re.compile(r"\[?[0-9A-Fa-f:.]{2,45}\]?(:\d{1,5})?")


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
    return None if not name else visible_line(name[:MAX_USER_AGENT])
