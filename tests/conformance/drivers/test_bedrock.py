"""Amazon Bedrock: the framing of its streams, signatures of requests, Converse and its errors.

The exchanges are scripted from the vendor's reference, not recorded from a live account.
"""

from __future__ import annotations

import base64
import time
from typing import Any

import msgspec
import pytest

from perdure.domain.errors import InvalidInput, ModelError
from perdure.domain.messages import ImagePart
from perdure.llm.bedrock_answer import ConverseAnswer
from perdure.llm.driver import ListedModel, ModelResponse, OutputFormat, ProviderConfig, ToolSpec
from perdure.llm.http import Http
from perdure.llm.parameters import refused_parameters
from perdure.llm.registry import make_driver
from tests.conformance.drivers.conftest import API_KEY, Connect
from tests.conformance.drivers.converse import ConverseWire, delta, event, exception, message
from tests.conformance.drivers.vendor import JSON, Reply, Vendor
from tests.unit.llm.talk import CLOCK, WEATHER, Heard, agent, ask, call, kept, result, system, user

TYPE = "bedrock"
WIRE = ConverseWire()
PNG = "iVBORw0KGgo="
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
ACCESS = f"AKIAIOSFODNN7EXAMPLE:{SECRET}"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORM = OutputFormat(SCHEMA, ToolSpec("final_result", "Gives the answer.", SCHEMA))
STOP = [event("messageStop", {"stopReason": "end_turn"}), event("metadata", {"usage": {"inputTokens": 1}})]


def body_of(*history: Any, **fields: Any) -> Any:
    driver: Any = make_driver(ProviderConfig(TYPE, None, API_KEY), Http())
    return msgspec.json.decode(driver.encoded(ask(*history, **{"model": CLAUDE, **fields})))


async def answered(vendor: Vendor, connect: Connect, *events: bytes, model: str = CLAUDE) -> ModelResponse:
    vendor.will(Reply(events))
    return await connect(TYPE).generate(ask(user("Hi"), model=model, tools=(WEATHER, CLOCK)), Heard())


def test_pieces_without_a_number_continue_the_last_block_and_cost_no_more_than_others() -> None:
    def seconds(*, numbered: bool) -> float:
        answer = ConverseAnswer(Heard())
        for index in range(20_000):
            answer.feed(b'{"contentBlockIndex":%d,"delta":{"text":"a"}}' % index, "contentBlockDelta")
        use = b'{"contentBlockIndex":20000,"start":{"toolUse":{"toolUseId":"c1","name":"clock"}}}'
        answer.feed(use, "contentBlockStart")
        number = b'"contentBlockIndex":20000,' if numbered else b""
        began = time.process_time()
        for _ in range(1_000):
            answer.feed(b'{%b"delta":{"toolUse":{"input":" "}}}' % number, "contentBlockDelta")
        took = time.process_time() - began
        assert [len(each.arguments) for each in answer.calls] == [1_000]
        return took

    assert seconds(numbered=False) < 20 * seconds(numbered=True)


# --- keys ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "region"),
    [
        (None, "us-east-1"),
        ("https://bedrock-runtime.eu-central-1.amazonaws.com", "eu-central-1"),
        ("https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com/", "us-gov-west-1"),
        ("https://vpce-1-2.bedrock-runtime.ap-southeast-2.vpce.amazonaws.com", "ap-southeast-2"),
        ("http://127.0.0.1:9", "us-east-1"),
    ],
)
def test_the_address_names_the_region_of_the_signature(address: str | None, region: str) -> None:
    driver: Any = make_driver(ProviderConfig(TYPE, address, ACCESS), Http())
    endpoint = driver._endpoint
    signed = endpoint.headers("POST", endpoint.url("/model/m/converse-stream"), b"{}")
    assert f"/{region}/bedrock/aws4_request" in signed["authorization"]


async def test_requests_are_signed_over_what_is_sent_and_secrets_stay_out(vendor: Vendor, http: Http) -> None:
    driver = make_driver(ProviderConfig(TYPE, vendor.url, f"{ACCESS}:{'T' * 40}"), http)
    said = {"message": f"Signature mismatch for {SECRET} and {'T' * 40}"}
    vendor.will(
        Reply([msgspec.json.encode(said)], 403, {**JSON, "x-amzn-ErrorType": "InvalidSignatureException"})
    )
    arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-2-lite-v1:0"
    with pytest.raises(ModelError) as caught:
        await driver.generate(ask(user("Hi"), model=arn), Heard())
    assert caught.value.code == "provider_auth"
    assert SECRET not in caught.value.message
    assert "T" * 12 not in caught.value.message
    asked = vendor.asked[0]
    assert asked.path == f"/model/{arn}/converse-stream"  # decoded; on the wire it is one segment
    assert asked.headers["x-amz-security-token"] == "T" * 40
    assert asked.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/")
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token, " in asked.headers["authorization"]
    assert SECRET not in str(asked.headers)


async def test_an_api_key_is_the_simple_way(vendor: Vendor, connect: Connect) -> None:
    await answered(vendor, connect, *WIRE.answer(["ok"]))
    assert vendor.asked[0].headers["authorization"] == f"Bearer {API_KEY}"
    assert "x-amz-date" not in vendor.asked[0].headers
    with pytest.raises(InvalidInput):
        make_driver(ProviderConfig(TYPE, "http://169.254.169.254"), Http())


# --- Converse ------------------------------------------------------------------


async def test_a_conversation_is_sent_in_the_vendors_form() -> None:
    body = body_of(
        user("Hi", ImagePart(base64=PNG), ImagePart(url="https://example.com/a.png")),
        agent("Look.", call("c1", "weather", {"city": "Rome"}), call("c2", "clock")),
        result("c2", None, "broken"),
        result("c1", [{"type": "text", "text": "done"}, {"type": "image", "base64": PNG}]),
        system("Be brief."),
        user("So?"),
        system="You help.",
        tools=(WEATHER, CLOCK),
        max_output_tokens=9,
        temperature=0.5,
        model="meta.llama4-scout-17b-instruct-v1:0",
    )
    assert body["system"] == [{"text": "You help."}]
    assert body["inferenceConfig"] == {"maxTokens": 9, "temperature": 0.5}
    assert [each["toolSpec"]["name"] for each in body["toolConfig"]["tools"]] == ["weather", "clock"]
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"text": "Hi"},
                {"image": {"format": "png", "source": {"bytes": PNG}}},
                {"text": "[image left out: Amazon Bedrock takes no images by URL]"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"text": "Look."},
                {"toolUse": {"toolUseId": "c1", "name": "weather", "input": {"city": "Rome"}}},
                {"toolUse": {"toolUseId": "c2", "name": "clock", "input": {}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "toolResult": {
                        "toolUseId": "c2",
                        "content": [{"text": "Error: broken"}],
                        "status": "error",
                    }
                },
                {
                    "toolResult": {
                        "toolUseId": "c1",
                        "content": [{"text": "done"}, {"image": {"format": "png", "source": {"bytes": PNG}}}],
                    }
                },
                {"text": "<system>\nBe brief.\n</system>"},
                {"text": "So?"},
            ],
        },
    ]
    with pytest.raises(ModelError, match="image/tiff"):
        body_of(user(ImagePart(base64="SUkq", media_type="image/tiff")))


async def test_signed_and_hidden_reasoning_goes_back_to_its_model(vendor: Vendor, connect: Connect) -> None:
    hidden = [base64.b64encode(piece).decode() for piece in (b"se", b"cret")]
    response = await answered(
        vendor,
        connect,
        event("messageStart", {"role": "assistant"}),
        delta(0, {"reasoningContent": {"text": "Hm, "}}),
        delta(0, {"reasoningContent": {"text": "well."}}),
        delta(0, {"reasoningContent": {"signature": "c2ln"}}),
        *(delta(1, {"reasoningContent": {"redactedContent": piece}}) for piece in hidden),
        delta(2, {"text": "I look."}),
        event(
            "contentBlockStart",
            {"contentBlockIndex": 3, "start": {"toolUse": {"toolUseId": "t1", "name": "clock"}}},
        ),
        event("messageStop", {"stopReason": "tool_use"}),
        event("metadata", {"usage": {"inputTokens": 5, "outputTokens": 2}}),
    )
    assert (response.thinking, response.text) == ("Hm, well.", "I look.")
    history = (user("Hi"), kept(response, TYPE), result("t1", "noon"))
    assert body_of(*history)["messages"][1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "Hm, well.", "signature": "c2ln"}}},
        {"reasoningContent": {"redactedContent": base64.b64encode(b"secret").decode()}},
        {"text": "I look."},
        {"toolUse": {"toolUseId": "t1", "name": "clock", "input": {}}},
    ]
    other = body_of(*history, model="us.anthropic.claude-opus-4-6-v1")["messages"][1]["content"]
    assert [list(block) for block in other] == [["text"], ["toolUse"]]


POINT = {"cachePoint": {"type": "default"}}


@pytest.mark.parametrize(
    ("model", "marked"),
    [
        (CLAUDE, True),
        ("anthropic.claude-3-haiku-20240307-v1:0", False),
        ("us.amazon.nova-2-lite-v1:0", True),
        ("meta.llama4-scout-17b-instruct-v1:0", False),
    ],
)
def test_prompts_are_marked_for_models_with_a_cache(model: str, marked: bool) -> None:
    fields = {"system": "S", "tools": (WEATHER,), "prompt_caching": None, "model": model}
    body = body_of(user("a"), agent("b"), user("c"), **fields)
    places = [body["system"], body["toolConfig"]["tools"], body["messages"][-1]["content"]]
    assert [place[-1] == POINT for place in places] == [marked] * 3
    assert POINT not in body["messages"][0]["content"]
    steps = body_of(user("a"), agent(call("c1")), result("c1", "x"), **fields)
    assert (steps["messages"][-1]["content"][-1] == POINT) is marked
    for off in ({"prompt_caching": False}, {"left_out": frozenset({"cachePoint"})}):
        assert "cachePoint" not in str(body_of(user("a"), **{**fields, **off}))


@pytest.mark.parametrize(
    ("model", "effort", "fields"),
    [
        (CLAUDE, "low", {"thinking": {"type": "enabled", "budget_tokens": 4_000}}),
        (CLAUDE, None, None),
        (
            "us.anthropic.claude-opus-4-6-v1",
            "high",
            {
                "thinking": {"type": "adaptive", "display": "summarized"},
                "output_config": {"effort": "high"},
            },
        ),
        ("openai.gpt-oss-120b-1:0", "low", {"reasoning_effort": "low"}),
        (
            "us.amazon.nova-2-lite-v1:0",
            "xhigh",
            {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}},
        ),
        ("us.amazon.nova-2-lite-v1:0", "none", None),
        ("mistral.mistral-large-2402-v1:0", "high", None),
    ],
)
def test_each_maker_of_models_is_asked_for_reasoning_in_its_own_words(
    model: str, effort: str | None, fields: Any
) -> None:
    body = body_of(user("Hi"), model=model, reasoning_effort=effort, temperature=0.5)
    assert body.get("additionalModelRequestFields") == fields
    assert ("temperature" in body["inferenceConfig"]) is not (fields is not None and "thinking" in fields)


def test_the_result_tool_gives_the_form_of_an_answer() -> None:
    body = body_of(user("Hi"), output=FORM, tools=(WEATHER,))
    assert [each["toolSpec"]["name"] for each in body["toolConfig"]["tools"]] == ["weather", "final_result"]
    assert body["toolConfig"]["toolChoice"] == {"any": {}}
    assert "toolChoice" not in body_of(user("Hi"), output=FORM, reasoning_effort="high")["toolConfig"]
    left_out = frozenset({"toolConfig.toolChoice"})
    assert "toolChoice" not in body_of(user("Hi"), output=FORM, left_out=left_out)["toolConfig"]


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("model_context_window_exceeded", "length"),
    ],
)
async def test_every_end_of_an_answer_has_its_reason(
    vendor: Vendor, connect: Connect, stop: str, reason: str
) -> None:
    response = await answered(
        vendor, connect, delta(0, {"text": "So"}), event("messageStop", {"stopReason": stop})
    )
    assert (response.text, response.finish_reason) == ("So", reason)


async def test_a_garbled_tool_call_may_be_asked_for_again(vendor: Vendor, connect: Connect) -> None:
    for stop in ("malformed_tool_use", "malformed_model_output"):
        with pytest.raises(ModelError) as caught:
            await answered(vendor, connect, event("messageStop", {"stopReason": stop}))
        assert caught.value.transient


# --- errors --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "message", "code", "transient"),
    [
        (400, "ValidationException", "Malformed input request.", "invalid_model_request", False),
        (400, "ValidationException", "Input is too long for requested model.",
         "context_length_exceeded", False),
        (400, "ValidationException", "The provided model identifier is invalid.", "model_not_found", False),
        (
            400, "ValidationException",
            "Invocation of model ID x with on-demand throughput isn't supported. Retry your request.",
            "invalid_model_request", False,
        ),
        (400, "ServiceQuotaExceededException", "The request exceeds the quota.", "quota_exceeded", False),
        (403, "AccessDeniedException", "You don't have access to the model.", "provider_auth", False),
        (403, "UnrecognizedClientException", "The security token is invalid.", "provider_auth", False),
        (403, "ExpiredTokenException", "The security token has expired", "provider_auth", False),
        (404, "ResourceNotFoundException", "Could not resolve the foundation model from the identifier.",
         "model_not_found", False),
        (408, "ModelTimeoutException", "The model timed out.", "provider_unavailable", True),
        (424, "ModelErrorException", "The model failed.", "provider_unavailable", True),
        (429, "ThrottlingException", "Too many tokens, please wait before trying again.",
         "provider_rate_limited", True),
        (429, "ModelNotReadyException", "Model is not ready for inference.", "provider_rate_limited", True),
        (500, "InternalServerException", "Internal error.", "provider_unavailable", True),
        (503, "ServiceUnavailableException", "Bedrock is unable to process your request.",
         "provider_unavailable", True),
    ],
)  # fmt: skip
async def test_every_error_of_the_vendor_is_told_apart(
    vendor: Vendor, connect: Connect, status: int, kind: str, message: str, code: str, transient: bool
) -> None:
    headers = {**JSON, "x-amzn-ErrorType": f"{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/"}
    vendor.will(Reply([msgspec.json.encode({"message": message})], status, headers))
    with pytest.raises(ModelError) as caught:
        await connect(TYPE).generate(ask(user("Hi")), Heard())
    assert (caught.value.code, caught.value.transient) == (code, transient)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("kind", "code", "transient"),
    [
        ("throttlingException", "provider_rate_limited", True),
        ("serviceUnavailableException", "provider_unavailable", True),
        ("internalServerException", "provider_unavailable", True),
        ("modelStreamErrorException", "provider_unavailable", True),
        ("modelTimeoutException", "provider_unavailable", True),
        ("validationException", "invalid_model_request", False),
    ],
)
async def test_every_exception_in_the_stream_is_told_apart(
    vendor: Vendor, connect: Connect, kind: str, code: str, transient: bool
) -> None:
    with pytest.raises(ModelError) as caught:
        await answered(vendor, connect, *WIRE.answer(["Hel"])[:2], exception(kind, f"No more {API_KEY}."))
    assert (caught.value.code, caught.value.transient) == (code, transient)
    assert kind in caught.value.message
    assert API_KEY not in caught.value.message


async def test_an_error_of_the_framing_itself_is_told_too(vendor: Vendor, connect: Connect) -> None:
    headers = {":message-type": "error", ":error-code": "InternalError", ":error-message": "It broke."}
    with pytest.raises(ModelError, match=r"InternalError: It broke\."):
        await answered(vendor, connect, message(headers, b""))
    with pytest.raises(ModelError, match="no AWS event stream") as caught:
        await answered(vendor, connect, b"data: hello there, this is no binary\n\n")
    assert (caught.value.code, caught.value.transient) == ("provider_bad_response", False)


@pytest.mark.parametrize(
    ("refusal", "names"),
    [
        ("You invoked an unsupported model or your request did not allow prompt caching.", ("cachePoint",)),
        ("This model doesn't support the toolConfig.toolChoice.any field.", ("toolConfig.toolChoice",)),
        ("additionalModelRequestFields: extraneous key [thinking] is not permitted",
         ("additionalModelRequestFields",)),
        ("`temperature` is deprecated for this model.", ("inferenceConfig.temperature",)),
        ("The text field in the ContentBlock object is blank.", ()),
    ],
)  # fmt: skip
def test_a_refused_parameter_is_named(refusal: str, names: tuple[str, ...]) -> None:
    sent = {
        "cachePoint",
        "toolConfig.toolChoice",
        "additionalModelRequestFields",
        "inferenceConfig.temperature",
    }
    assert refused_parameters(refusal, sent) == names


async def test_parameters_that_were_refused_are_left_out() -> None:
    driver: Any = make_driver(ProviderConfig(TYPE, None, API_KEY), Http())
    request = ask(
        user("Hi"), model="openai.gpt-oss-120b-1:0", reasoning_effort="low", temperature=1.0, output=FORM
    )
    optional = {"additionalModelRequestFields", "inferenceConfig.temperature", "toolConfig.toolChoice"}
    assert driver.optional(request) == optional
    left_out = msgspec.structs.replace(request, left_out=driver.optional(request))
    body = msgspec.json.decode(driver.encoded(left_out))
    assert body.keys() == {"messages", "toolConfig"}
    assert driver.optional(ask(user("Hi"), model=CLAUDE, prompt_caching=None)) == {
        "cachePoint",
        "inferenceConfig.maxTokens",
    }


# --- lists ---------------------------------------------------------------------


async def test_models_and_profiles_are_listed(vendor: Vendor, connect: Connect) -> None:
    models = [
        {
            "modelId": "amazon.nova-lite-v1:0",
            "modelName": "Nova Lite",
            "inferenceTypesSupported": ["ON_DEMAND"],
        },
        {"modelId": "anthropic.claude-x", "modelName": "X", "inferenceTypesSupported": ["INFERENCE_PROFILE"]},
        {"modelId": "old", "inferenceTypesSupported": ["ON_DEMAND"], "responseStreamingSupported": False},
    ]
    profiles = [
        {"inferenceProfileId": "us.anthropic.claude-x", "inferenceProfileName": "US X", "status": "ACTIVE"},
        {"inferenceProfileId": "gone", "status": "INACTIVE"},
    ]

    def listed(name: str, entries: Any) -> Reply:
        return Reply([msgspec.json.encode({name: entries})], 200, JSON)

    denied = Reply(
        [b'{"message":"not authorized"}'], 403, {**JSON, "x-amzn-ErrorType": "AccessDeniedException"}
    )
    first = listed("modelSummaries", models)
    vendor.will(first, listed("inferenceProfileSummaries", profiles), first, denied)
    driver = connect(TYPE)
    assert await driver.list_models() == [
        ListedModel("amazon.nova-lite-v1:0", "Nova Lite"),
        ListedModel("us.anthropic.claude-x", "US X"),
    ]
    assert await driver.list_models() == [ListedModel("amazon.nova-lite-v1:0", "Nova Lite")]
    assert [asked.path for asked in vendor.asked[:2]] == ["/v1/foundation-models", "/v1/inference-profiles"]


async def test_entries_without_a_name_are_left_out_and_a_busy_vendor_is_told(
    vendor: Vendor, connect: Connect
) -> None:
    models = [{"modelName": "Nameless"}, {"modelId": 5}, "odd", {"modelId": "m", "modelName": "m"}]
    slow = [{"modelId": "batch", "responseStreamingSupported": False}]
    busy = Reply([b'{"message":"slow down"}'], 503, {**JSON, "x-amzn-ErrorType": "ServiceUnavailable"})
    vendor.will(Reply([msgspec.json.encode({"modelSummaries": models + slow})], 200, JSON), busy)
    with pytest.raises(ModelError) as caught:
        await connect(TYPE).list_models()
    assert caught.value.transient
    vendor.will(
        Reply([msgspec.json.encode({"modelSummaries": models + slow})], 200, JSON),
        Reply([b'{"inferenceProfileSummaries":[{}]}'], 200, JSON),
        *(Reply([body], 200, JSON) for body in (b"odd", b"[]")),
    )
    assert await connect(TYPE).list_models() == [ListedModel("m", None)]
    for words in ("is not JSON", "is not a list"):
        with pytest.raises(ModelError, match=words):
            await connect(TYPE).list_models()


def test_the_control_plane_is_asked_for_models() -> None:
    for address, control in (
        (None, "https://bedrock.us-east-1.amazonaws.com"),
        (
            "https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com",
            "https://bedrock-fips.us-gov-west-1.amazonaws.com",
        ),
        ("https://bedrock-runtime.evil.example.com", "https://bedrock-runtime.evil.example.com"),
    ):
        driver: Any = make_driver(ProviderConfig(TYPE, address, API_KEY), Http())
        assert driver._control.base == control
