"""MCP's messages: what is read, what is refused, and how arguments become headers."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.mcp_results import (
    ToolList,
    content_of,
    input_required,
    progress_line,
    prompt_messages,
    prompts_of,
    question,
    question_key,
    resource_contents,
    resources_of,
    server_info,
    ttl_of,
    url_questions,
)
from perdure.domain.mcp_wire import (
    Malformed,
    RpcError,
    argument_headers,
    header_arguments,
    header_value,
    read_messages,
    request,
)
from perdure.net.mcp.rounds import refused


def test_a_response_an_error_a_request_and_a_notification_are_told_apart() -> None:
    batch = [
        {"jsonrpc": "2.0", "id": 1, "result": {"a": 1}},
        {"jsonrpc": "2.0", "id": None, "error": {"code": -1, "message": "m", "data": [1]}},
        {"jsonrpc": "2.0", "id": "x", "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/x", "params": {"b": 2}},
    ]
    answer, error, asked, told = read_messages(json.dumps(batch).encode())
    assert (answer.id, answer.result, answer.is_response) == (1, {"a": 1}, True)
    assert error.error is not None
    assert (error.error.code, error.error.data, error.is_response) == (-1, [1], True)
    assert (asked.id, asked.is_request, asked.is_response) == ("x", True, False)
    assert (told.params, told.is_request, told.is_response) == ({"b": 2}, False, False)
    assert read_messages(request(7, "m", {"p": 1}))[0].id == 7


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"7",
        b"{}",
        b'{"id":1}',
        b'{"id":1,"result":null}',
        b'{"id":true,"result":{}}',
        b'{"id":1.5}',
        b"{",
    ],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        read_messages(body)


def test_numbers_that_nothing_can_store_become_others() -> None:
    values = (
        b'[1, 9223372036854775807, 99999999999999999999, -99999999999999999999, "9999999999999999999999"]'
    )
    read = read_messages(b'{"id":1,"result":{"a":' + values + b',"b":' + b"9" * 400 + b"}}")[0].result
    assert read is not None
    assert read["a"] == [1, 2**63 - 1, 1e20, -1e20, "9999999999999999999999"]
    assert read["b"] == "9" * 400


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    with contextlib.suppress(Malformed):
        read_messages(body)


@given(st.text(max_size=40))
def test_every_text_survives_a_header(text: str) -> None:
    sent = header_value(text)
    assert sent.isascii()
    assert sent.isprintable()
    assert sent == sent.strip()
    if sent.startswith("=?base64?") and sent.endswith("?="):
        sent = base64.b64decode(sent[9:-2]).decode()
    assert sent == text


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def test_marked_arguments_become_headers_wherever_they_are() -> None:
    marked = header_arguments(
        schema(
            region={"type": "string", "x-mcp-header": "Region"},
            where=schema(**{"a/b": {"type": "integer", "x-mcp-header": "N"}}),
            dry={"type": "boolean", "x-mcp-header": "Dry"},
            **{"x-mcp-header": {"type": "string"}},  # a property of this name marks nothing
        )
    )
    assert marked == (("region", "Mcp-Param-Region"), ("where/a~1b", "Mcp-Param-N"), ("dry", "Mcp-Param-Dry"))
    arguments = {"region": "zürich", "where": {"a/b": 7}, "dry": False}
    assert argument_headers(marked, arguments) == {
        "Mcp-Param-Region": f"=?base64?{base64.b64encode('zürich'.encode()).decode()}?=",
        "Mcp-Param-N": "7",
        "Mcp-Param-Dry": "false",
    }
    assert argument_headers(marked, {"region": None, "where": 1, "dry": ""}) == {"Mcp-Param-Dry": ""}


@pytest.mark.parametrize(
    "wrong",
    [
        schema(a={"type": "number", "x-mcp-header": "A"}),
        schema(a={"type": ["string", "null"], "x-mcp-header": "A"}),
        schema(a={"type": "string", "x-mcp-header": ""}),
        schema(a={"type": "string", "x-mcp-header": "A B"}),
        schema(a={"type": "string", "x-mcp-header": "A\r\nB"}),
        schema(a={"type": "string", "x-mcp-header": 1}),
        schema(a={"type": "string", "x-mcp-header": "A"}, b={"type": "string", "x-mcp-header": "a"}),
        schema(a={"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}),
        {"type": "object", "anyOf": [schema(a={"type": "string", "x-mcp-header": "A"})]},
        {"type": "object", "x-mcp-header": "A"},
    ],
)
def test_a_mark_that_the_protocol_forbids_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        header_arguments(wrong)
    tools = ToolList()
    tools.take([{"name": "bad", "inputSchema": wrong}, {"name": "good"}])
    assert [tool.name for tool in tools.tools] == ["good"]


def test_names_and_values_of_a_schema_stay_exact_while_its_texts_are_cleaned() -> None:
    tools = ToolList()
    odd = "a\u200bb"
    properties = {odd: {"enum": [odd], "description": odd, "title": odd}, "description": {"type": "string"}}
    tools.take([{"name": "t", "inputSchema": {"type": "object", "properties": properties}}])
    read = tools.tools[0].input_schema["properties"]
    assert read[odd] == {"enum": [odd], "description": "ab", "title": "ab"}
    assert read["description"] == {"type": "string"}


def test_a_server_may_say_nothing_about_itself_or_all_kinds_of_things() -> None:
    assert server_info({}).name == ""
    odd = {"serverInfo": 7, "capabilities": [], "instructions": {}, "_meta": "x"}
    assert server_info(odd) == server_info({})
    meta = {"io.modelcontextprotocol/serverInfo": {"name": "m", "version": "2"}}
    info = server_info({"_meta": meta, "serverInfo": {"name": "old"}, "capabilities": {"tools": {}}})
    assert (info.name, info.version, info.has_tools, info.has_prompts) == ("m", "2", True, False)
    assert [ttl_of({"ttlMs": each}) for each in (0, 1500, -1, True, "1", None, 10**12)] == [
        0.0, 1.5, None, None, None, None, 86_400.0,
    ]  # fmt: skip


def test_progress_becomes_one_line() -> None:
    assert progress_line({"progress": 3, "total": 10, "message": "go\non\u202e"}) == "go on (3 of 10)"
    assert progress_line({"progress": 0.5}) == "0.5"
    assert progress_line({"message": "only"}) == "only"
    assert progress_line({"progress": True, "total": "x"}) == ""


FORM = {"message": "m", "requestedSchema": {"type": "object"}}


@pytest.mark.parametrize(
    ("params", "policy"),
    [
        (FORM, "none"),
        (FORM, "url"),
        ({"mode": "other"}, "url_and_form"),
        ({"mode": "url", "url": "javascript:alert(1)"}, "url"),
        ({"mode": "url", "url": "https://a\u202e.org"}, "url"),
        ({"mode": "url"}, "url"),
        ({"mode": "form"}, "url_and_form"),
        ({"requestedSchema": {"description": "x" * 40_000}}, "url_and_form"),
    ],
)
def test_questions_that_are_not_passed_on_are_refused(params: dict[str, Any], policy: Any) -> None:
    with pytest.raises(Malformed):
        question("k", params, policy)


def test_the_same_question_has_the_same_key() -> None:
    other = {"requestedSchema": {"type": "object"}, "message": "m", "_meta": {"x": 1}}
    assert question_key(FORM) == question_key(other) != question_key({**FORM, "message": "n"})
    asked = {"who": {"method": "elicitation/create", "params": FORM}}
    read = input_required({"inputRequests": asked, "requestState": "s"}, "url_and_form")
    assert (read.requests[0].key, read.requests[0].mode, read.state) == ("who", "form", "s")


def test_structured_content_is_kept_as_the_era_allows() -> None:
    result: dict[str, Any] = {"content": [], "structuredContent": [1]}
    assert content_of(result, any_structure=True).structured == [1]
    assert content_of(result, any_structure=False).structured is None
    assert content_of({"structuredContent": {"a": 1}}, any_structure=False).structured == {"a": 1}


FIELDS = [
    "_meta", "action", "annotations", "arguments", "blob", "capabilities", "content", "contents", "data",
    "description", "elicitationId", "elicitations", "inputRequests", "inputSchema", "isError", "message",
    "messages", "method", "mimeType", "mode", "name", "nextCursor", "outputSchema", "params", "progress",
    "prompts", "properties", "requestState", "requestedSchema", "resource", "resources", "role",
    "serverInfo", "size", "structuredContent", "supportedVersions", "text", "title", "tools", "total",
    "ttlMs", "type", "uri", "url", "version", "x-mcp-header",
]  # fmt: skip
WORDS = ["text", "image", "resource", "object", "string", "url", "user", "elicitation/create", "https://a.b"]
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**30, max_value=10**400)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(WORDS)
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=20,
)
READERS: list[Callable[[Any], object]] = [
    server_info,
    ttl_of,
    progress_line,
    resource_contents,
    prompt_messages,
    question_key,
    lambda value: ToolList().take([value]),
    lambda value: ToolList().take(value.get("tools")),
    lambda value: resources_of([value]),
    lambda value: prompts_of([value]),
    lambda value: content_of({"content": [value], **value}, any_structure=True),
    lambda value: question("k", value, "url_and_form"),
    lambda value: input_required({"inputRequests": {"a": value, "b": {"params": value}}}, "url_and_form"),
    lambda value: url_questions({"elicitations": [value]}, "url_and_form"),
    lambda value: refused(RpcError(1, value, value), str),
]


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8), st.sampled_from(range(len(READERS))))
def test_no_value_breaks_a_reader(value: dict[str, Any], reader: int) -> None:
    with contextlib.suppress(Malformed):
        READERS[reader](value)
