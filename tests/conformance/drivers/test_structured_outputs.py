"""How each driver asks for the form of an answer: by a parameter, or by the result tool."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.domain.messages import JsonObject
from perdure.llm.driver import ModelRequest, OutputFormat, ProviderConfig, ToolSpec
from perdure.llm.http import Http
from perdure.llm.output_schemas import ANTHROPIC, OPENAI, narrowed
from perdure.llm.outputs import RESULT_TOOL
from perdure.llm.registry import make_driver
from perdure.llm.sample_values import sample
from tests.conformance.drivers.conftest import Connect
from tests.conformance.drivers.protocols import Wire
from tests.conformance.drivers.vendor import Reply, Vendor
from tests.unit.llm.talk import WEATHER, Heard, ask, user

SCHEMA: JsonObject = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer", "minimum": -90}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
NATIVE = {
    "openai_completions": "response_format",
    "openai": "text",
    "anthropic": "output_config",
    "gemini": "generationConfig",
}
CHOICE = {"gemini": "toolConfig"}
CLAUDE = "claude-opus-4-6"


def form(schema: JsonObject = SCHEMA) -> OutputFormat:
    return OutputFormat(schema, ToolSpec("final_result", "Gives the answer.", schema))


def request_of(wire: Wire, **fields: Any) -> ModelRequest:
    fields = {"output": form(), **fields}
    if wire.provider_type == "anthropic":
        fields = {"model": CLAUDE, **fields}
    return ask(user("Weather?"), **fields)


def names_of(body: Any) -> list[str]:
    if "toolConfig" in body and "tools" in body["toolConfig"]:
        return [each["toolSpec"]["name"] for each in body["toolConfig"]["tools"] if "toolSpec" in each]
    tools = [each for tool in body.get("tools", ()) for each in tool.get("functionDeclarations", [tool])]
    return [tool.get("name") or tool["function"]["name"] for tool in tools]


async def test_without_tools_a_parameter_asks_for_the_form(
    vendor: Vendor, connect: Connect, sse_wire: Wire
) -> None:
    vendor.will(Reply(sse_wire.answer(['{"city": "Ro', 'me", "degrees": 21}'])))
    heard = Heard()
    response = await connect(sse_wire.provider_type).generate(request_of(sse_wire), heard)
    assert heard.joined("text") == response.text == '{"city": "Rome", "degrees": 21}'
    assert names_of(vendor.sent) == []
    asked = vendor.sent[NATIVE[sse_wire.provider_type]]
    schema = {
        "openai_completions": lambda: asked["json_schema"]["schema"],
        "openai": lambda: asked["format"]["schema"],
        "anthropic": lambda: asked["format"]["schema"],
        "gemini": lambda: asked["responseJsonSchema"],
    }[sse_wire.provider_type]()
    assert schema["required"] == ["city", "degrees"]
    assert schema["additionalProperties"] is False


async def test_beside_tools_the_parameter_is_used_only_where_tools_can_be_called(
    vendor: Vendor, connect: Connect, sse_wire: Wire
) -> None:
    vendor.will(Reply(sse_wire.answer(calls=[("c1", "weather", ['{"city": "Rome"}'])])))
    response = await connect(sse_wire.provider_type).generate(request_of(sse_wire, tools=(WEATHER,)), Heard())
    assert [call.name for call in response.tool_calls] == ["weather"]
    native = sse_wire.provider_type == "anthropic"
    assert (NATIVE[sse_wire.provider_type] in vendor.sent) == native
    assert names_of(vendor.sent) == ["weather"] if native else ["weather", "final_result"]
    assert (CHOICE.get(sse_wire.provider_type, "tool_choice") in vendor.sent) != native


async def test_the_call_of_the_result_tool_is_shown_while_it_arrives(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    pieces = ['{"city": "Ro', 'me", "degr', 'ees": 21}']
    vendor.will(Reply(wire.answer(["So."], calls=[("c1", "final_result", pieces)])))
    left_out = frozenset(
        {"response_format", "text.format", "output_config.format", "generationConfig.responseJsonSchema"}
    )
    heard = Heard()
    response = await connect(wire.provider_type).generate(request_of(wire, left_out=left_out), heard)
    if wire.provider_type == "gemini":  # its calls arrive whole
        assert msgspec.json.decode(heard.joined("result")) == {"city": "Rome", "degrees": 21}
    else:
        assert heard.pieces("result") == pieces
    assert response.text == "So."
    assert [(call.name, call.arguments) for call in response.tool_calls] == [
        ("final_result", {"city": "Rome", "degrees": 21})
    ]
    assert names_of(vendor.sent) == ["final_result"]
    assert NATIVE.get(wire.provider_type) not in vendor.sent


async def test_the_arguments_of_other_tools_are_not_shown(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    vendor.will(Reply(wire.answer(calls=[("c1", "weather", ['{"city":', ' "Rome"}'])])))
    heard = Heard()
    await connect(wire.provider_type).generate(
        request_of(wire, tools=(WEATHER,), left_out=frozenset({"output_config.format"})), heard
    )
    assert heard.pieces("result") == []


async def test_a_server_without_tools_is_asked_in_words_only(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    vendor.will(Reply(wire.answer(["{}"])))
    left_out = frozenset({"response_format", "text.format", "output_config", "generationConfig", RESULT_TOOL})
    await connect(wire.provider_type).generate(request_of(wire, left_out=left_out), Heard())
    assert not vendor.sent.keys() & {"tools", "tool_choice", "toolConfig", *NATIVE.values()}


async def test_a_model_that_thinks_may_choose_not_to_call_the_result_tool(
    vendor: Vendor, connect: Connect
) -> None:
    for model, effort in (("claude-opus-4-1", "high"), ("claude-opus-5-5", None)):
        fields = {"model": model, "reasoning_effort": effort, "left_out": {"output_config.format"}}
        request = ask(user("Hi"), output=form(), **fields)
        body = _encoded("anthropic", None, request)
        assert "thinking" in body
        assert "tool_choice" not in body
        assert names_of(body) == ["final_result"]
    plain = _encoded("anthropic", None, ask(user("Hi"), output=form(), model="claude-3-5-haiku-latest"))
    assert plain["tool_choice"] == {"type": "any"}
    one = ask(user("Hi"), output=form(), model="mimo", tools=(WEATHER,), parallel_tool_calls=False)
    assert _encoded("anthropic", None, one)["tool_choice"] == {
        "type": "any",
        "disable_parallel_tool_use": True,
    }


async def test_efforts_and_forms_share_a_parameter(vendor: Vendor, connect: Connect) -> None:
    body = _encoded("anthropic", None, ask(user("Hi"), output=form(), model=CLAUDE, reasoning_effort="low"))
    assert body["output_config"].keys() == {"effort", "format"}


@pytest.mark.parametrize("provider_type", ["openai_completions", "openai"])
async def test_openais_own_models_call_tools_beside_the_parameter(provider_type: str) -> None:
    request = ask(user("Hi"), output=form(), tools=(WEATHER,), model="gpt-5")
    body = _encoded(provider_type, "https://api.openai.com/v1", request)
    asked = body.get("response_format", {}).get("json_schema") or body["text"]["format"]
    assert (asked["name"], asked["strict"]) == ("final_result", True)
    assert asked["schema"] == SCHEMA
    assert names_of(body) == ["weather"]
    loose = {"type": "object", "properties": {"note": {"type": "string"}}}
    body = _encoded(provider_type, "https://api.openai.com/v1", ask(user("Hi"), output=form(loose)))
    asked = body.get("response_format", {}).get("json_schema") or body["text"]["format"]
    assert (asked["strict"], asked["schema"]) == (False, loose)


def _encoded(provider_type: str, url: str | None, request: ModelRequest) -> Any:
    http = Http()
    driver = make_driver(ProviderConfig(provider_type, url or "http://h/v1", "key"), http)
    return msgspec.json.decode(driver.encoded(request))  # type: ignore[attr-defined]


def test_bounds_that_a_vendor_does_not_know_are_told_in_the_description() -> None:
    schema: JsonObject = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 2, "description": "A name."},
            "age": {"type": ["integer", "null"], "minimum": 0},
            "kind": {"oneOf": [{"const": "a"}, {"enum": ["b", 1]}]},
            "rows": {"type": "array", "items": {"$ref": "#/$defs/row"}, "maxItems": 3},
            "day": {"type": "string", "format": "date"},
        },
        "required": ["name", "age", "kind", "rows", "day"],
        "$defs": {"row": {"type": "object", "properties": {}, "title": "Row"}},
    }
    closed = {"properties": {}, "required": [], "additionalProperties": False}
    parts = {
        "name": {"type": "string", "description": "A name. (minLength: 2)"},
        "kind": {"anyOf": [{"enum": ["a"]}, {"enum": ["b", 1]}]},
        "day": {"type": "string", "format": "date"},
    }
    items = {"type": "array", "items": {"$ref": "#/$defs/row"}}
    expected = {
        ANTHROPIC: {
            "age": {
                "anyOf": [
                    {"type": "integer", "description": "(minimum: 0)"},
                    {"type": "null", "description": "(minimum: 0)"},
                ]
            },
            "rows": {**items, "description": "(maxItems: 3)"},
        },
        OPENAI: {
            "age": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null", "minimum": 0}]},
            "rows": {**items, "maxItems": 3},
        },
    }
    for dialect, others in expected.items():
        made = narrowed(schema, dialect)
        assert made is not None
        assert made["properties"] == parts | others
        assert made["$defs"] == {"row": {"type": "object", "title": "Row", **closed}}
        assert made["additionalProperties"] is False


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "array"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"allOf": [{"type": "string"}]}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"$ref": "#/properties/b"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"enum": [[1]]}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["b"]},
        {"type": "array", "items": {"type": "string"}},
    ],
)
def test_a_schema_that_no_vendor_can_express_is_left_to_the_result_tool(schema: JsonObject) -> None:
    assert narrowed(schema, OPENAI) is None
    assert narrowed(schema, ANTHROPIC) is None
    assert "output_config" not in _encoded(
        "anthropic", None, ask(user("?"), output=form(schema), model=CLAUDE)
    )


def test_only_one_vendor_takes_optional_properties_and_only_the_other_one_recursion() -> None:
    optional = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert narrowed(optional, OPENAI) is None
    assert narrowed(optional, ANTHROPIC) is not None
    node = {"type": "array", "items": {"$ref": "#/$defs/node"}}
    tree = {
        "type": "object",
        "properties": {"root": {"$ref": "#/$defs/node"}},
        "required": ["root"],
        "$defs": {"node": {"type": "object", "properties": {"children": node}, "required": ["children"]}},
    }
    assert narrowed(tree, OPENAI) is not None
    assert narrowed(tree, ANTHROPIC) is None


@pytest.mark.parametrize(
    ("bounds", "kept", "words"),
    [
        ({"minimum": 0, "exclusiveMinimum": True}, {"minimum": 0}, "(exclusiveMinimum: true)"),
        ({"pattern": "^(?![-+])[0-9]+$"}, {}, '(pattern: "^(?![-+])[0-9]+$")'),
        ({"pattern": "^(?:a|b)$"}, {"pattern": "^(?:a|b)$"}, None),
    ],
    ids=["of draft 4", "looks around", "plain"],
)
def test_a_bound_that_no_vendor_takes_is_told_in_words(
    bounds: JsonObject, kept: JsonObject, words: str | None
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", **bounds}}, "required": ["a"]}
    made = narrowed(schema, OPENAI)
    assert made is not None
    told = {} if words is None else {"description": words}
    assert made["properties"]["a"] == {"type": "string", **kept, **told}


def test_a_schema_that_multiplies_is_not_narrowed() -> None:
    part: JsonObject = {"type": "string"}
    for _ in range(30):
        part = {
            "type": ["object", "array"],
            "properties": {"a": part},
            "items": part,
            "required": ["a"],
            "additionalProperties": False,
        }
    schema = {"type": "object", "properties": {"a": part}, "required": ["a"], "additionalProperties": False}
    assert narrowed(schema, OPENAI) is None
    tree = {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]}
    assert len(msgspec.json.encode(sample(form(tree)))) < 20_000
