"""How a request asks for the form of its final answer: by a parameter, by the result tool, or in words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from perdure.llm.driver import ModelRequest, ToolSpec
from perdure.llm.overflow import LONGEST

RESULT_TOOL = "result_tool"
"""In `ModelRequest.left_out`: the server accepts no tools, so the result tool is not offered either."""

NAME = "final_result"
"""The name of the schema in a parameter."""


def offers_result_tool(request: ModelRequest, *, native: bool) -> bool:
    """Whether the result tool is offered. `native`: a parameter asks for the form of the answer."""
    return request.output is not None and not native and RESULT_TOOL not in request.left_out


def tools_with_result(request: ModelRequest, *, native: bool) -> Sequence[ToolSpec]:
    """The tools that the request offers, the result tool included."""
    if request.output is None or not offers_result_tool(request, native=native):
        return request.tools
    return (*request.tools, request.output.tool)


def result_tool_of(request: ModelRequest, *, native: bool) -> str | None:
    """The name of the result tool, if the request offers it."""
    if request.output is None or not offers_result_tool(request, native=native):
        return None
    return request.output.tool.name


def offers_only_result(request: ModelRequest) -> bool:
    """Whether the model can do without tools, because at most the result tool is offered."""
    return request.output is not None and not request.tools and RESULT_TOOL not in request.left_out


def refuses_result_tool(request: ModelRequest, refusal: str) -> bool:
    """Whether a server's refusal names the result tool: by its name, or by its place, which is the last.

    Servers refuse schemas that they cannot express, also those of tools.
    """
    if request.output is None or RESULT_TOOL in request.left_out:
        return False
    name, place = re.escape(request.output.tool.name), len(request.tools)
    return re.search(rf"(?<!\w){name}(?!\w)|\btools[.\[]{place}(?!\d)", refusal[:LONGEST]) is not None
