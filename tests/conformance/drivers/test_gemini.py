"""Gemini's own protocol: contents, signatures, thinking, counts and errors, as its reference describes them.

The exchanges are scripted from the vendor's reference, not recorded from a live account.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.domain.errors import ModelError
from perdure.domain.messages import ImagePart, Usage
from perdure.llm.driver import ListedModel, ModelResponse, ProviderConfig
from perdure.llm.gemini_wire import PLACEHOLDER
from perdure.llm.http import Http
from perdure.llm.parameters import refused_parameters
from perdure.llm.registry import make_driver
from tests.conformance.drivers.conftest import API_KEY, Connect
from tests.conformance.drivers.protocols import sse
from tests.conformance.drivers.vendor import JSON, Reply, Vendor
from tests.unit.llm.talk import CLOCK, WEATHER, Heard, agent, ask, call, kept, result, system, user

TYPE = "gemini"
PNG = "iVBORw0KGgo="


def chunk(*parts: Any, finish: str | None = None, **more: Any) -> bytes:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return sse({"candidates": [candidate], "modelVersion": "gemini-3-pro", "responseId": "r1", **more})


def body_of(*history: Any, base: str | None = None, **fields: Any) -> Any:
    driver: Any = make_driver(ProviderConfig(TYPE, base, API_KEY), Http())
    return msgspec.json.decode(driver.encoded(ask(*history, **{"model": "gemini-3-pro", **fields})))


async def answered(
    vendor: Vendor, connect: Connect, *events: bytes, model: str = "gemini-3-pro"
) -> ModelResponse:
    vendor.will(Reply(events))
    return await connect(TYPE).generate(ask(user("Hi"), model=model, tools=(WEATHER, CLOCK)), Heard())


async def test_a_conversation_is_sent_in_the_vendors_form() -> None:
    body = body_of(
        user("Hi", ImagePart(base64=PNG)),
        agent("Look.", call("c1", "weather", {"city": "Rome"}), call("c2", "clock")),
        result("c2", None, "broken"),
        result("c1", {"degrees": 21}),
        system("Be brief."),
        user(ImagePart(url="https://example.com/a.png")),
        system_prompt_left_out(),
        system="You help.",
        tools=(WEATHER,),
        max_output_tokens=9,
        temperature=0.5,
        model="gemini-2.0-flash",
    )
    assert body["systemInstruction"] == {"parts": [{"text": "You help."}]}
    assert body["generationConfig"] == {"maxOutputTokens": 9, "temperature": 0.5}
    assert [declared["name"] for declared in body["tools"][0]["functionDeclarations"]] == ["weather"]
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "Hi"}, {"inlineData": {"mimeType": "image/png", "data": PNG}}]},
        {
            "role": "model",
            "parts": [
                {"text": "Look."},
                {"functionCall": {"name": "weather", "args": {"city": "Rome"}, "id": "c1"}},
                {"functionCall": {"name": "clock", "args": {}, "id": "c2"}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "clock", "id": "c2", "response": {"error": "broken"}}},
                {
                    "functionResponse": {
                        "name": "weather",
                        "id": "c1",
                        "response": {"output": '{"degrees":21}'},
                    }
                },
            ],
        },
        {
            "role": "user",
            "parts": [
                {"text": "<system>\nBe brief.\n</system>"},
                {"fileData": {"mimeType": "image/png", "fileUri": "https://example.com/a.png"}},
            ],
        },
    ]


def system_prompt_left_out() -> Any:
    """A system message without text, which is not sent."""
    return system(" ")


async def test_signatures_go_back_on_the_parts_that_had_them(vendor: Vendor, connect: Connect) -> None:
    response = await answered(
        vendor,
        connect,
        chunk({"text": "I think.", "thought": True}),
        chunk({"text": "First "}),
        chunk({"text": "part.", "thoughtSignature": "QQ=="}),
        chunk({"functionCall": {"name": "weather", "args": {}, "id": "f1"}, "thoughtSignature": "Qg=="}),
        chunk({"functionCall": {"name": "clock", "args": {}}}),
        chunk({"text": "", "thoughtSignature": "Qw=="}, finish="STOP"),
    )
    assert (response.text, response.thinking) == ("First part.", "I think.")
    history = [user("Hi"), kept(response, TYPE), *(result(each.id, "x") for each in response.tool_calls)]
    ids = [each.id for each in response.tool_calls]
    assert ids[0] == "f1"
    assert body_of(*history)["contents"][1]["parts"] == [
        {"text": "First "},
        {"text": "part.", "thoughtSignature": "QQ=="},
        {"functionCall": {"name": "weather", "args": {}, "id": "f1"}, "thoughtSignature": "Qg=="},
        {"functionCall": {"name": "clock", "args": {}, "id": ids[1]}},
        {"text": "", "thoughtSignature": "Qw=="},
    ]


async def test_signatures_of_another_model_are_replaced_where_one_is_needed(
    vendor: Vendor, connect: Connect
) -> None:
    response = await answered(
        vendor,
        connect,
        chunk({"functionCall": {"name": "clock", "args": {}, "id": "f1"}, "thoughtSignature": "Qg=="}),
        chunk({"functionCall": {"name": "clock", "args": {}, "id": "f2"}}, finish="STOP"),
    )
    history = [user("Hi"), kept(response, TYPE), result("f1", "x"), result("f2", "y")]

    def signatures(model: str) -> list[str | None]:
        parts = body_of(*history, model=model)["contents"][1]["parts"]
        return [part.get("thoughtSignature") for part in parts]

    assert signatures("gemini-3-pro") == ["Qg==", None]
    assert signatures("gemini-3.5-flash") == [PLACEHOLDER, None]
    assert signatures("gemini-2.5-pro") == [None, None]


async def test_a_signature_that_is_refused_is_left_out_for_good(vendor: Vendor, connect: Connect) -> None:
    response = await answered(
        vendor, connect, chunk({"text": "Hi.", "thoughtSignature": "QQ=="}, finish="STOP")
    )
    refused = {
        "error": {"code": 400, "message": "Thought signature is not valid", "status": "INVALID_ARGUMENT"}
    }
    answer = Reply([chunk({"text": "ok"}, finish="STOP")])
    vendor.will(Reply([msgspec.json.encode(refused)], 400, JSON), answer, answer)
    driver = connect(TYPE)
    history = (user("a"), kept(response, TYPE), user("b"))
    for _ in range(2):
        await driver.generate(ask(*history, model="gemini-3-pro", cache_key="s"), Heard())
    assert ["QQ==" in str(asked.body) for asked in vendor.asked[1:]] == [True, False, False]


async def test_thoughts_count_as_output_and_cached_contents_as_input(
    vendor: Vendor, connect: Connect
) -> None:
    usage = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 60,
        "toolUsePromptTokenCount": 5,
        "candidatesTokenCount": 7,
        "thoughtsTokenCount": 30,
        "totalTokenCount": 142,
    }
    response = await answered(
        vendor, connect, chunk({"text": "ok"}), chunk({"text": ""}, finish="STOP", usageMetadata=usage)
    )
    assert response.usage == Usage(105, 37, 60, None)
    assert (response.model, response.response_id) == ("gemini-3-pro", "r1")


@pytest.mark.parametrize(
    ("model", "effort", "thinking"),
    [
        ("gemini-2.0-flash", "high", None),
        ("gemma-3-27b-it", None, None),
        ("gemini-2.5-flash", None, {"includeThoughts": True}),
        ("gemini-2.5-flash", "low", {"includeThoughts": True, "thinkingBudget": 4096}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128}),
        ("gemini-3-pro-preview", "minimal", {"includeThoughts": True, "thinkingLevel": "low"}),
        ("gemini-3-pro-preview", "medium", {"includeThoughts": True, "thinkingLevel": "high"}),
        ("gemini-3.1-pro", "medium", {"includeThoughts": True, "thinkingLevel": "medium"}),
        ("gemini-3-flash", "none", {"includeThoughts": True, "thinkingLevel": "minimal"}),
        ("gemini-3-flash", "xhigh", {"includeThoughts": True, "thinkingLevel": "high"}),
    ],
)
def test_the_effort_becomes_a_level_or_a_budget(model: str, effort: str | None, thinking: Any) -> None:
    body = body_of(user("Hi"), model=model, reasoning_effort=effort)
    assert body.get("generationConfig", {}).get("thinkingConfig") == thinking


async def test_an_effort_that_no_budget_has_is_refused_before_the_call() -> None:
    with pytest.raises(ModelError, match="unknown reasoning effort"):
        body_of(user("Hi"), model="gemini-2.5-pro", reasoning_effort="huge")


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("LANGUAGE", "content_filter"),
        ("OTHER", "other"),
    ],
)
async def test_every_end_of_an_answer_has_its_reason(
    vendor: Vendor, connect: Connect, finish: str, reason: str
) -> None:
    response = await answered(vendor, connect, chunk({"text": "So"}), chunk(finish=finish))
    assert (response.text, response.finish_reason) == ("So", reason)


@pytest.mark.parametrize(
    "finish", ["MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS"]
)
async def test_an_answer_that_cannot_be_used_may_be_asked_for_again(
    vendor: Vendor, connect: Connect, finish: str
) -> None:
    candidate = {"content": {}, "finishReason": finish, "finishMessage": f"print(x) {API_KEY}", "index": 0}
    with pytest.raises(ModelError) as caught:
        await answered(vendor, connect, sse({"candidates": [candidate]}))
    assert (caught.value.code, caught.value.transient) == ("provider_bad_response", True)
    assert finish in caught.value.message
    assert API_KEY not in caught.value.message


async def test_a_prompt_that_is_blocked_is_filtered(vendor: Vendor, connect: Connect) -> None:
    feedback = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 9},
    }
    response = await answered(vendor, connect, sse(feedback))
    assert (response.text, response.finish_reason, response.usage) == ("", "content_filter", Usage(9, 0))


def failure(code: int, status: str, message: str, *details: Any) -> bytes:
    error = {"code": code, "message": message, "status": status, "details": list(details)}
    return msgspec.json.encode({"error": error})


def info(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **fields}


@pytest.mark.parametrize(
    ("status", "body", "code", "transient", "wait"),
    [
        (
            400,
            failure(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.",
                    info("ErrorInfo", reason="API_KEY_INVALID", domain="googleapis.com")),
            "provider_auth", False, None,
        ),
        (403, failure(403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers."),
         "provider_auth", False, None),
        (
            404,
            failure(404, "NOT_FOUND", "models/x is not found for API version v1beta, or is not supported for"
                    " generateContent."),
            "model_not_found", False, None,
        ),
        (
            400,
            failure(400, "INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum number of"
                    " tokens allowed (1048576)."),
            "context_length_exceeded", False, None,
        ),
        (400, failure(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
         "invalid_model_request", False, None),
        (
            429,
            failure(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan.",
                    info("QuotaFailure", violations=[{"quotaId": "GenerateRequestsPerMinute"}]),
                    info("RetryInfo", retryDelay="34.5s")),
            "provider_rate_limited", True, 34.5,
        ),
        (
            429,
            b"[" + failure(429, "RESOURCE_EXHAUSTED", "Resource exhausted.",
                           info("RetryInfo", retryDelay="9s")) + b"]",
            "provider_rate_limited", True, 9.0,
        ),
        (500, failure(500, "INTERNAL", "An internal error occurred."), "provider_unavailable", True, None),
        (503, failure(503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
         "provider_unavailable", True, None),
        (504, failure(504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
         "provider_unavailable", True, None),
    ],
)  # fmt: skip
async def test_every_error_of_the_vendor_is_told_apart(
    vendor: Vendor, connect: Connect, status: int, body: bytes, code: str, transient: bool, wait: float | None
) -> None:
    vendor.will(Reply([body], status, JSON))
    with pytest.raises(ModelError) as caught:
        await connect(TYPE).generate(ask(user("Hi")), Heard())
    found = caught.value
    assert (found.code, found.transient, found.retry_after) == (code, transient, wait)


async def test_an_error_in_the_stream_may_name_the_wait_too(vendor: Vendor, connect: Connect) -> None:
    error = {"code": 429, "message": "Slow down.", "status": "RESOURCE_EXHAUSTED"}
    event = {"error": {**error, "details": [info("RetryInfo", retryDelay="7s")]}}
    with pytest.raises(ModelError) as caught:
        await answered(vendor, connect, chunk({"text": "Hel"}), sse(event))
    assert (caught.value.code, caught.value.retry_after) == ("provider_rate_limited", 7.0)


@pytest.mark.parametrize(
    ("refusal", "names"),
    [
        ("Thinking is not enabled for this model.", ("generationConfig.thinkingConfig",)),
        (
            "Unknown name \"thinkingLevel\" at 'generation_config.thinking_config': Cannot find field.",
            ("generationConfig.thinkingConfig",),
        ),
        (
            "The specified schema produces a constraint that has too many states for serving.",
            ("generationConfig.responseJsonSchema",),
        ),
        ("Function calling config is set without function_declarations: not supported", ("toolConfig",)),
        ("Please use a valid role: user, model.", ()),
    ],
)
def test_a_refused_parameter_is_named(refusal: str, names: tuple[str, ...]) -> None:
    sent = {"generationConfig.thinkingConfig", "generationConfig.responseJsonSchema", "toolConfig"}
    assert refused_parameters(refusal, sent) == names


async def test_parameters_that_were_refused_are_left_out(connect: Connect) -> None:
    request = ask(user("Hi"), model="gemini-3-pro", reasoning_effort="low", temperature=1.0)
    driver: Any = connect(TYPE)
    assert driver.optional(request) == {"generationConfig.thinkingConfig", "generationConfig.temperature"}
    left_out = msgspec.structs.replace(request, left_out=driver.optional(request))
    assert b"generationConfig" not in driver.encoded(left_out)


async def test_models_are_listed_page_by_page(vendor: Vendor, connect: Connect) -> None:
    def page(*models: Any, token: str | None = None) -> Reply:
        value = {"models": models} | ({"nextPageToken": token} if token else {})
        return Reply([msgspec.json.encode(value)], 200, JSON)

    first = {
        "name": "models/gemini-3-pro",
        "displayName": "Gemini 3 Pro",
        "inputTokenLimit": 1_048_576,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }
    embedding = {"name": "models/embedding-001", "supportedGenerationMethods": ["embedContent"]}
    vendor.will(page(first, embedding, token="next"), page({"name": "tunedModels/mine"}))
    assert await connect(TYPE).list_models() == [
        ListedModel("gemini-3-pro", "Gemini 3 Pro", 1_048_576),
        ListedModel("tunedModels/mine"),
    ]
    assert [asked.query.get("pageToken") for asked in vendor.asked] == [None, "next"]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-3-pro", "/v1/models/gemini-3-pro:streamGenerateContent"),
        ("models/gemini-3-pro", "/v1/models/gemini-3-pro:streamGenerateContent"),
        ("tunedModels/mine", "/v1/tunedModels/mine:streamGenerateContent"),
        ("../../x?y#z", "/v1/models/../../x?y#z:streamGenerateContent"),
    ],
)
async def test_a_model_name_cannot_leave_its_place_in_the_address(
    vendor: Vendor, connect: Connect, model: str, path: str
) -> None:
    await answered(vendor, connect, chunk({"text": "ok"}, finish="STOP"), model=model)
    asked = vendor.asked[-1]
    assert (asked.path, asked.query) == (path, {"alt": "sse"})


async def test_tokens_of_oauth_and_vertex_are_known(vendor: Vendor, http: Http) -> None:
    driver = make_driver(ProviderConfig(TYPE, f"{vendor.url}/v1", "token-1", {"bearer": True}), http)
    vendor.will(Reply([chunk({"text": "ok"}, finish="STOP")]))
    await driver.generate(ask(user("Hi")), Heard())
    assert vendor.asked[-1].headers["authorization"] == "Bearer token-1"
    history = (user("a"), agent(call("c1")), result("c1", "x"))
    vertex = "https://aiplatform.googleapis.com/v1/publishers/google"
    assert '"id"' not in msgspec.json.encode(body_of(*history, base=vertex)).decode()
