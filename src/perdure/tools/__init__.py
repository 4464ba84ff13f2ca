"""Tools in Python: everything that the author of a tool needs is imported from here.

    from perdure.tools import Context, ToolError, tool


    @tool(read_only=True)
    async def order_status(ctx: Context, order: str) -> dict[str, str]:
        \"\"\"Look up an order.

Args:
            order: The order's number, such as A-1024.
        \"\"\"
        token = await ctx.secret("SHOP_TOKEN")
        ...

`perdure serve --tools my_tools.py` loads such functions from a file.
"""

from perdure.capabilities.functions import as_tool
from perdure.capabilities.port import Callback, Later
from perdure.capabilities.tool_context import (
    Context,
    FileFacts,
    Files,
    Http,
    OwnSession,
    SessionFacts,
    Storage,
)
from perdure.domain.effects import NOT_DONE, UNKNOWN, Verified, done
from perdure.domain.errors import OutcomeUnknown, ToolError
from perdure.domain.http_answers import HttpAnswer
from perdure.domain.tool_functions import ToolFunction, tool

__all__ = [
    "NOT_DONE",
    "UNKNOWN",
    "Callback",
    "Context",
    "FileFacts",
    "Files",
    "Http",
    "HttpAnswer",
    "Later",
    "OutcomeUnknown",
    "OwnSession",
    "SessionFacts",
    "Storage",
    "ToolError",
    "ToolFunction",
    "Verified",
    "as_tool",
    "done",
    "tool",
]
