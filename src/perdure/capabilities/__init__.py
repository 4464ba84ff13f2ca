"""Capabilities: what a session can do.

Authors of capabilities import everything they need from here.
"""

from perdure.capabilities.port import (
    ONCE,
    READ_ONLY,
    REPEATABLE,
    Behaviour,
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
from perdure.domain.errors import ToolError
from perdure.domain.sessions import InitialFile
from perdure.domain.tools import ToolHints

__all__ = [
    "ONCE",
    "READ_ONLY",
    "REPEATABLE",
    "Behaviour",
    "Callback",
    "Capability",
    "Discovered",
    "DiscoveryContext",
    "InitialFile",
    "Later",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolHints",
    "ToolOutcome",
    "schema",
]
