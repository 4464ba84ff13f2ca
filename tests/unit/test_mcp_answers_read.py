"""What MCP servers answer: what is left out or refused when it is read, and what models receive of it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from perdure.domain.mcp import McpContent
from perdure.domain.mcp_results import (
    MAX_BLOCKS,
    MAX_FAULTS,
    MAX_QUESTIONS,
    MAX_SCHEMAS,
    MAX_STATE,
    MAX_TOOLS,
    ToolList,
    content_of,
    input_required,
    prompt_messages,
    prompts_of,
    resource_contents,
    resources_of,
    url_questions,
)
from perdure.domain.mcp_wire import Malformed
from perdure.domain.messages import ImagePart
from perdure.tools.mcp.results import MAX_IMAGES, MAX_STRUCTURED, error_of, result_of
from tests.talk import Json

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FORM: Json = {"message": "Which?", "requestedSchema": {"type": "object"}}


def asked(params: Json, method: str = "elicitation/create") -> Json:
    return {"inputRequests": {"q": {"method": method, "params": params}}}


# fmt: off
BROKEN: list[tuple[Callable[[], object], str]] = [
    (lambda: ToolList().take({"tools": []}), "`tools` is not a list"),
    (lambda: resources_of({}), "`resources` is not a list"),
    (lambda: prompts_of(None), "`prompts` is not a list"),
    (lambda: prompt_messages({"messages": "hi"}), "`messages` is not a list"),
    (lambda: prompt_messages({"messages": [1] * (MAX_BLOCKS + 1)}), "too long"),
    (lambda: prompt_messages({"messages": [{"role": "system"}]}), "neither `user` nor `assistant`"),
    (lambda: prompt_messages({"messages": [[]]}), "neither `user` nor `assistant`"),
    (lambda: prompt_messages({"messages": [{"role": "user", "content": {}}]}), "no `type`"),
    (lambda: resource_contents({"contents": 1}), "`contents` is not a list"),
    (lambda: resource_contents({"contents": [{"text": "a"}]}), "no `uri`"),
    (lambda: resource_contents({"contents": [{"uri": "a:b"}]}), "neither `text` nor `blob`"),
    (lambda: content_of({"content": {}}, any_structure=False), "`content` is not a list"),
    (lambda: content_of({"content": [{}] * (MAX_BLOCKS + 1)}, any_structure=False), "content blocks"),
    (lambda: content_of({"content": [{"type": "text"}]}, any_structure=False), "no `text`"),
    (lambda: content_of({"content": [{"type": "image", "data": ""}]}, any_structure=False), "`mimeType`"),
    (lambda: content_of({"content": [{"type": "resource_link"}]}, any_structure=False), "link .* no `uri`"),
    (lambda: content_of({"content": [{"type": "resource"}]}, any_structure=False), "resource has no `uri`"),
    (lambda: input_required({"requestState": 1}, "url"), "`requestState` is not a text"),
    (lambda: input_required({"requestState": "s" * (MAX_STATE + 1)}, "url"), "longer than 256 KB"),
    (lambda: input_required({}, "url"), "without questions"),
    (lambda: input_required({"inputRequests": dict.fromkeys(map(str, range(21)))}, "url"), "more than 20"),
    (lambda: input_required(asked(FORM, "sampling/createMessage"), "url_and_form"), "'sampling/create"),
    (lambda: input_required({"inputRequests": {"q": 1}}, "url_and_form"), "asks for 'input'"),
    (lambda: input_required(asked(FORM), "url"), "asks for a form of the user"),
    (lambda: input_required(asked({"mode": "spell"}), "url_and_form"), "mode 'spell' .* unknown"),
    (lambda: input_required(asked({"mode": "form"}), "url_and_form"), "schema of its form is missing"),
    (lambda: input_required(asked({"mode": "url", "url": "file:///x"}), "url"), "not an http or https URL"),
    (lambda: url_questions([], "url"), "no URL"),
    (lambda: url_questions({"elicitations": []}, "url"), "no URL"),
    (lambda: url_questions({"elicitations": [1]}, "url"), "no URL"),
    (lambda: url_questions({"elicitations": [{}] * (MAX_QUESTIONS + 1)}, "url"), "no URL"),
]
# fmt: on


@pytest.mark.parametrize(("read", "said"), BROKEN, ids=map(str, range(len(BROKEN))))
def test_an_answer_that_breaks_the_protocol_is_refused_with_the_reason(
    read: Callable[[], object], said: str
) -> None:
    with pytest.raises(Malformed, match=said):
        read()


def test_tools_that_cannot_be_read_are_left_out_each_with_the_reason() -> None:
    listed = ToolList()
    large = {"type": "object", "description": "x" * (128 << 10)}
    bad: list[Any] = [
        "text",
        {"name": ""},
        {"name": "hid\u200bden"},
        {"name": "list", "inputSchema": []},
        {"name": "text", "inputSchema": {"type": "string"}},
        {"name": "large", "inputSchema": large},
        {"name": "result", "outputSchema": large},
    ]
    listed.take([*bad, {"name": "good"}, {"name": "good", "title": "again"}])
    listed.fault("a page was cut")
    assert [(tool.name, tool.title, tool.input_schema) for tool in listed.tools] == [
        ("good", None, {"type": "object"})
    ]
    assert listed.faults == (
        "the tool without a name was left out: it is not an object",
        "the tool '' was left out: its name must have 1 to 200 characters, none of them hidden",
        "the tool 'hidden' was left out: its name must have 1 to 200 characters, none of them hidden",
        "the tool 'list' was left out: its `inputSchema` is not an object",
        "the tool 'text' was left out: the `type` of its `inputSchema` is not `object`",
        "the tool 'large' was left out: its `inputSchema` is larger than 128 KB",
        "the tool 'result' was left out: its `outputSchema` is larger than 128 KB",
        "the tool 'good' is listed twice: the first one counts",
        "a page was cut",
    )


def test_a_server_with_very_many_faults_and_tools_costs_a_bounded_text() -> None:
    listed = ToolList()
    listed.take([None] * (MAX_FAULTS + 3))
    listed.take([{"name": f"t{number}"} for number in range(MAX_TOOLS + 2)])
    assert len(listed.tools) == MAX_TOOLS
    assert len(listed.faults) == MAX_FAULTS + 2
    assert listed.faults[-2:] == (
        "3 more tools were left out",
        f"2 tools were left out: a server may offer {MAX_TOOLS}",
    )


def test_the_schemas_of_one_server_have_a_bound_together() -> None:
    listed = ToolList()
    schema = {"type": "object", "x": "x" * 120_000}
    wide = MAX_SCHEMAS // 120_000
    listed.take([{"name": f"t{number}", "inputSchema": schema} for number in range(wide + 2)])
    left_out = wide + 2 - len(listed.tools)
    assert left_out >= 2
    assert listed.faults == (f"{left_out} tools were left out: a server's schemas may have 8 MB",)


def test_questions_about_urls_have_keys_even_if_the_server_names_none() -> None:
    named = {"elicitationId": "e1", "message": "Sign", "url": "https://a.example/1"}
    bare = {"message": "Pay", "url": "https://a.example/2"}
    first, second = url_questions({"elicitations": [named, bare]}, "url").requests
    assert (first.key, first.mode, first.url, first.elicitation_id) == (
        "e1", "url", "https://a.example/1", "e1"
    )  # fmt: skip
    assert len(second.key) == 24
    assert second.elicitation_id is None
    (again,) = url_questions({"elicitations": [bare]}, "url").requests
    assert again.key == second.key


def test_what_is_no_resource_or_prompt_is_left_out_of_a_list() -> None:
    found = resources_of(
        [1, {"uri": 7}, {"uri": ""}, {"uri": "a:b", "size": True}, {"uri": "a:c", "size": 3}]
    )
    assert [(each.uri, each.name, each.size) for each in found] == [("a:b", "a:b", None), ("a:c", "a:c", 3)]
    arguments = [1, {"description": "no name"}, {"name": "who", "required": True}]
    prompts = prompts_of(
        [[], {"name": ""}, {"name": "plan", "arguments": arguments}, {"name": "p", "arguments": 1}]
    )
    assert [(each.name, [(arg.name, arg.required) for arg in each.arguments]) for each in prompts] == [
        ("plan", [("who", True)]),
        ("p", []),
    ]


# --- what models receive -------------------------------------------------------


def said(*blocks: Json, structured: Any = None) -> Any:
    return result_of(McpContent(blocks, structured, False)).value


def test_content_that_no_model_can_read_is_named() -> None:
    blob = base64.b64encode(b"x" * 30).decode()
    assert said({"type": "audio", "data": blob, "mimeType": "audio/\nwav"}) == (
        "[audio, audio/ wav, 30 bytes: it cannot be shown]"
    )
    assert said({"type": "video\u200b"}) == "[content of the type video: it cannot be shown]"
    assert said({"no": "type"}) == ""


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ({"uri": "a:b", "text": "Hi."}, "[resource a:b]\nHi."),
        ({"uri": "a:b", "mimeType": "text/plain", "text": "Hi."}, "[resource a:b, text/plain]\nHi."),
        ({"uri": "a:b", "blob": "AAAA"}, "[resource a:b, 3 bytes: it is not text, and cannot be shown]"),
        ({"uri": "a:b"}, "[resource a:b]"),
        ({}, "[resource ]"),
    ],
)
def test_an_embedded_resource_is_shown_as_text_with_its_address(resource: Json, expected: str) -> None:
    assert said({"type": "resource", "resource": resource}) == expected


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "[link to the resource a:b]"),
        ({"name": "B", "mimeType": "a/b", "size": 9}, "[link to the resource a:b, B, a/b, 9 bytes]"),
        ({"size": True, "description": ""}, "[link to the resource a:b]"),
        ({"description": "The list."}, "[link to the resource a:b] The list."),
    ],
)  # fmt: skip
def test_a_link_has_the_facts_that_the_server_gives(more: Json, expected: str) -> None:
    assert said({"type": "resource_link", "uri": "a:b", **more}) == expected


def test_an_image_in_a_resource_is_an_image_and_one_that_is_none_is_named() -> None:
    image = {"uri": "a:b", "mimeType": "image/png", "blob": PNG}
    result = result_of(McpContent(({"type": "resource", "resource": image},), None, False))
    assert result.value == "[resource a:b, image/png]"
    assert [type(each) for each in result.images] == [ImagePart]
    assert result.outcome().images == result.images
    broken = said({"type": "image", "data": "AAAA", "mimeType": "image/png"})
    assert broken.startswith("[image, image/png, 3 bytes: it cannot be shown, because it ")
    large = said({"type": "image", "data": "A" * (MAX_IMAGES + 1), "mimeType": "image/png"})
    assert large.endswith("the images are too large to be shown]")


def test_structured_content_follows_the_text_unless_the_text_says_the_same() -> None:
    value = {"a": [1, 2]}
    text = {"type": "text", "text": "Two."}
    assert said(structured=value) == value
    assert said(text, structured=value) == 'Two.\n\n{"a":[1,2]}'
    same = {"type": "text", "text": '{ "a": [1,\n 2] }'}
    assert said(same, structured=value) == same["text"]
    assert said(text, structured={"result": "Two."}) == "Two."
    broken = {"type": "text", "text": '{"a":[1,2'}
    assert said(broken, structured=value) == '{"a":[1,2\n\n{"a":[1,2]}'
    large = {"a": "x" * MAX_STRUCTURED}
    assert isinstance(said(structured=large), str)


def test_a_failure_says_what_the_server_says_or_that_it_says_nothing() -> None:
    text: Json = {"type": "text", "text": "No such thing."}
    assert error_of(McpContent((text,), None, True)) == "No such thing."
    assert error_of(McpContent((), {"code": 7}, True)) == '{"code":7}'
    assert error_of(McpContent((), None, True)) == "The tool failed without saying why."
