"""Capabilities: what a session can do.

Authors of capabilities import everything they need from here.
"""

from perdure.capabilities.behaviour import Behaviour
from perdure.capabilities.port import (
    ONCE,
    READ_ONLY,
    REPEATABLE,
    Callback,
    Capability,
    Discovered,
    DiscoveryContext,
    Later,
    Tool,
    ToolContext,
    ToolOutcome,
    schema,
)
from perdure.domain.effects import NOT_DONE, UNKNOWN, Verified, done
from perdure.domain.errors import OutcomeUnknown, ToolError
from perdure.domain.sessions import InitialFile
from perdure.domain.tools import ToolHints

__all__ = [
    "NOT_DONE",
    "ONCE",
    "READ_ONLY",
    "REPEATABLE",
    "UNKNOWN",
    "Behaviour",
    "Callback",
    "Capability",
    "Discovered",
    "DiscoveryContext",
    "InitialFile",
    "Later",
    "OutcomeUnknown",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolHints",
    "ToolOutcome",
    "Verified",
    "done",
    "schema",
]
