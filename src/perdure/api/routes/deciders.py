"""Who decides on an approval through the API, and how."""

from __future__ import annotations

from perdure.api.kernel.call import Call
from perdure.domain.inbox import Decider
from perdure.domain.messages import storable

MAX_AGENT = 300
"""Characters of the program's name that are logged with a decision."""


def decider_of(call: Call) -> Decider:
    """Return what the log says about who decides with this request."""
    user_agent = storable((call.header(b"user-agent") or "")[:MAX_AGENT]) or None
    return Decider(call.caller, address=call.address, user_agent=user_agent)
