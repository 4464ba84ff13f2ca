"""Refusals of models that accept no tools, and those of requests that only use tools in a wrong way."""

from __future__ import annotations

import pytest

from perdure.llm.no_tools import accepts_no_tools


@pytest.mark.parametrize(
    "message",
    [
        "registry.example/library/small:4b does not support tools",
        "No endpoints found that support tool use. To learn more",
        "`tool calling` is not supported with this model",
        "small-reasoner does not support Function Calling",
        "Function calling is not enabled for models/small-27b-it",
        "This model doesn't support tool use.",
        "This model doesn\N{RIGHT SINGLE QUOTATION MARK}t support tools",
        "tools is not supported in this model. For a list of supported models",
        "Tool use not supported",
        "This model does not currently support tools",
        "'tools' are not supported by this model",
    ],
)
def test_a_model_without_tools_is_recognized(message: str) -> None:
    assert accepts_no_tools(message)


@pytest.mark.parametrize(
    "message",
    [
        "This model does not support tool messages: role 'tool' is unknown",
        "does not support parallel tool calls",
        "`tool_choice` 'required' is not supported",
        "Thinking mode does not support this tool_choice",
        "Unsupported parameter: 'tools[0].strict'",
        "This model does not support tool choice",
        "tool_calls is not supported in assistant messages",
        "Invalid schema for function 'x': not supported",
        "tool results are not supported",
        "messages with role 'tool' are not supported",
        "parallel_tool_calls is not supported",
        "tools.0.custom.strict is not allowed",
        "this model does not support image input",
    ],
)
def test_a_request_that_uses_tools_in_a_wrong_way_may_still_be_adapted(message: str) -> None:
    assert not accepts_no_tools(message)
