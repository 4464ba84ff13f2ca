"""The streams and errors of each dialect of Chat Completions, in the form that its vendor documents.

They are scripted from the vendors' references, not recorded from live accounts.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.domain.errors import ModelError
from perdure.domain.messages import Usage
from tests.conformance.drivers.conftest import Connect
from tests.conformance.drivers.vendor import JSON, Reply, Vendor
from tests.unit.llm.talk import WEATHER, Heard, ask, user

USAGE = {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}


def sse(*values: Any) -> list[bytes]:
    return [b"data: " + msgspec.json.encode(value) + b"\n\n" for value in values]


def delta(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "gen-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


DONE = b"data: [DONE]\n\n"
FUNCTION = {"name": "weather", "arguments": '{"city":"Rome"}'}
CALL = {"index": 0, "id": "c1", "type": "function", "function": FUNCTION}
STREAMS: dict[str, tuple[list[bytes], str, int | None]] = {
    "azure_openai": (
        [
            *sse(
                {
                    "choices": [],
                    "id": "",
                    "model": "",
                    "object": "",
                    "prompt_filter_results": [
                        {"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}
                    ],
                },
                delta({"content": "Hello"}, content_filter_results={}),
                delta({"tool_calls": [CALL]}),
                delta({}, "tool_calls"),
                {"choices": [], "usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 16}}},
            ),
            DONE,
        ],
        "",
        16,
    ),
    "openrouter": (
        [
            b": OPENROUTER PROCESSING\n\n",
            *sse(
                delta({"role": "assistant", "content": "", "reasoning": "Hm."}, provider="Anthropic"),
                delta({"content": "Hello", "reasoning": None}),
                delta({"content": "", "tool_calls": [CALL]}),
                delta({"content": ""}, "tool_calls", native_finish_reason="tool_use"),
                delta({"content": ""}, usage={**USAGE, "prompt_tokens_details": {"cached_tokens": 16}}),
            ),
            DONE,
        ],
        "Hm.",
        16,
    ),
    "mistral": (
        [
            *sse(
                delta(
                    {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]}, p="x"
                ),
                delta({"content": "Hello"}),
                delta({"content": "", "tool_calls": [CALL]}, "tool_calls", usage=USAGE),
            ),
            DONE,
        ],
        "Hm.",
        None,
    ),
    "groq": (
        [
            *sse(
                delta({"role": "assistant", "content": ""}, x_groq={"id": "req_1"}),
                delta({"reasoning": "Hm.", "channel": "analysis"}),
                delta({"content": "Hello"}),
                delta({"tool_calls": [CALL]}),
                delta({}, "tool_calls", x_groq={"id": "req_1", "usage": USAGE}),
            ),
            DONE,
        ],
        "Hm.",
        None,
    ),
    "moonshot": (
        [
            *sse(
                delta({"role": "assistant", "reasoning_content": "Hm."}),
                delta({"content": "Hello"}),
                delta({"tool_calls": [CALL]}),
                {
                    "choices": [
                        {
                            "index": 0,
                            "delta": {},
                            "finish_reason": "tool_calls",
                            "usage": {**USAGE, "cached_tokens": 16},
                        }
                    ]
                },
            ),
            DONE,
        ],
        "Hm.",
        16,
    ),
    "deepseek": (
        [
            b": keep-alive\n\n",
            *sse(
                delta({"role": "assistant", "content": None, "reasoning_content": "Hm."}),
                delta({"content": "Hello", "reasoning_content": None}),
                delta({"tool_calls": [CALL]}),
                delta(
                    {"content": ""},
                    "tool_calls",
                    usage={**USAGE, "prompt_cache_hit_tokens": 16, "prompt_cache_miss_tokens": 4},
                ),
            ),
            DONE,
        ],
        "Hm.",
        16,
    ),
    "ollama": (
        [
            *sse(
                delta(
                    {"role": "assistant", "content": "", "reasoning": "Hm."}, system_fingerprint="fp_ollama"
                ),
                delta({"role": "assistant", "content": "Hello"}),
                delta({"role": "assistant", "content": "", "tool_calls": [CALL]}),
                delta({"role": "assistant", "content": ""}, "tool_calls"),
                {"choices": [], "usage": USAGE},
            ),
            DONE,
        ],
        "Hm.",
        None,
    ),
    "vllm": (
        [
            *sse(
                delta({"role": "assistant", "content": ""}),
                delta({"reasoning_content": "Hm.", "reasoning": "Hm."}),
                delta({"content": "Hello"}),
                delta({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "weather"}}]}),
                delta({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":"Rome"}'}}]}),
                delta({"content": ""}, "tool_calls", stop_reason=None),
                {"choices": [], "usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 16}}},
            ),
            DONE,
        ],
        "Hm.",
        16,
    ),
    "lm_studio": (
        [
            *sse(
                delta({"role": "assistant", "reasoning_content": "Hm."}),
                delta({"role": "assistant", "content": "Hello"}),
                delta({"tool_calls": [CALL]}),
                delta({}, "tool_calls"),
                {"choices": [], "usage": USAGE},
            ),
            DONE,
        ],
        "Hm.",
        None,
    ),
    "litellm": (
        [
            *sse(
                delta({"role": "assistant", "content": "", "reasoning_content": "Hm."}),
                delta({"content": "Hello"}),
                delta({"content": None, "tool_calls": [CALL]}),
                delta({}, "tool_calls"),
                {
                    "choices": [],
                    "usage": {
                        **USAGE,
                        "prompt_tokens_details": {"cached_tokens": 16},
                        "cache_read_input_tokens": 16,
                    },
                },
            ),
            DONE,
        ],
        "Hm.",
        16,
    ),
}


@pytest.mark.parametrize("provider_type", STREAMS)
async def test_the_stream_of_each_dialect_is_read(
    vendor: Vendor, connect: Connect, provider_type: str
) -> None:
    events, thinking, cached = STREAMS[provider_type]
    vendor.will(Reply(events))
    response = await connect(provider_type).generate(ask(user("Hi"), tools=(WEATHER,)), Heard())
    assert (response.text, response.thinking or "") == ("Hello", thinking)
    assert [(call.id, call.name, call.arguments) for call in response.tool_calls] == [
        ("c1", "weather", {"city": "Rome"})
    ]
    assert response.usage == Usage(20, 4, cached, None)
    assert response.finish_reason == "tool_calls"


Error = tuple[str, int, dict[str, str], Any, str, bool, float | None]
"""The vendor, the status, headers and body of its answer; our code, whether it passes, and the wait."""

ERRORS: list[Error] = [
    (
        "azure_openai", 401, {},
        {"error": {"code": "401", "message": "Access denied due to invalid subscription key or wrong API"
                   " endpoint."}},
        "provider_auth", False, None,
    ),
    (
        "azure_openai", 404, {},
        {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not"
                   " exist."}},
        "model_not_found", False, None,
    ),
    ("azure_openai", 404, {}, {"error": {"code": "404", "message": "Resource not found"}},
     "provider_misconfigured", False, None),
    (
        "azure_openai", 429, {"retry-after": "6"},
        {"error": {"code": "429", "message": "Requests to the ChatCompletions_Create Operation under Azure"
                   " OpenAI API version 2024-10-21 have exceeded token rate limit. Please retry after 6"
                   " seconds."}},
        "provider_rate_limited", True, 6.0,
    ),
    (
        "azure_openai", 400, {},
        {"error": {"code": "content_filter", "message": "The response was filtered due to the prompt"
                   " triggering Azure OpenAI's content management policy.", "status": 400,
                   "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        "content_filtered", False, None,
    ),
    (
        "azure_openai", 400, {},
        {"error": {"code": "context_length_exceeded", "message": "This model's maximum context length is"
                   " 128000 tokens."}},
        "context_length_exceeded", False, None,
    ),
    ("openrouter", 401, {}, {"error": {"code": 401, "message": "No auth credentials found"}},
     "provider_auth", False, None),
    ("openrouter", 402, {}, {"error": {"code": 402, "message": "Insufficient credits."}},
     "quota_exceeded", False, None),
    (
        "openrouter", 403, {},
        {"error": {"code": 403, "message": "Your chosen model requires moderation and your input was flagged",
                   "metadata": {"reasons": ["violence"], "flagged_input": "..."}}},
        "content_filtered", False, None,
    ),
    ("openrouter", 404, {}, {"error": {"code": 404, "message": "No endpoints found for a/b."}},
     "model_not_found", False, None),
    (
        "openrouter", 429, {},
        {"error": {"code": 429, "message": "Provider returned error",
                   "metadata": {"raw": "x is temporarily rate-limited upstream", "provider_name": "Chutes"}}},
        "provider_rate_limited", True, None,
    ),
    ("openrouter", 502, {}, {"error": {"code": 502, "message": "Provider returned error"}},
     "provider_unavailable", True, None),
    ("openrouter", 503, {}, {"error": {"code": 503, "message": "No instances available"}},
     "provider_unavailable", True, None),
    (
        "openrouter", 400, {},
        {"error": {"code": 400, "message": "This endpoint's maximum context length is 131072 tokens. However,"
                   " you requested about 140000 tokens."}},
        "context_length_exceeded", False, None,
    ),
    ("mistral", 401, {}, {"message": "Unauthorized", "request_id": "r"}, "provider_auth", False, None),
    (
        "mistral", 422, {},
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"],
                     "msg": "Extra inputs are not permitted", "input": {}}]},
        "invalid_model_request", False, None,
    ),
    (
        "mistral", 429, {},
        {"object": "error", "message": "Service tier capacity exceeded for this model.",
         "type": "service_tier_capacity_exceeded", "param": None, "code": "3505"},
        "provider_rate_limited", True, None,
    ),
    (
        "mistral", 400, {},
        {"object": "error", "message": "Invalid model: mistral-9", "type": "invalid_model", "code": "1500"},
        "invalid_model_request", False, None,
    ),
    (
        "mistral", 400, {},
        {"object": "error", "message": "Prompt contains 140000 tokens and 0 draft tokens, too large for model"
         " with 131072 maximum context length", "type": "invalid_request_prompt", "code": "3051"},
        "context_length_exceeded", False, None,
    ),
    ("groq", 401, {}, {"error": {"message": "Invalid API Key", "type": "invalid_request_error",
                                 "code": "invalid_api_key"}}, "provider_auth", False, None),
    (
        "groq", 404, {},
        {"error": {"message": "The model `x` does not exist or you do not have access to it.",
                   "type": "invalid_request_error", "code": "model_not_found"}},
        "model_not_found", False, None,
    ),
    (
        "groq", 429, {"retry-after": "2", "x-ratelimit-remaining-tokens": "0"},
        {"error": {"message": "Rate limit reached for model `x` on tokens per minute (TPM): Limit 6000, Used"
                   " 5000, Requested 2000. Please try again in 2s.", "type": "tokens",
                   "code": "rate_limit_exceeded"}},
        "provider_rate_limited", True, 2.0,
    ),
    (
        "groq", 413, {},
        {"error": {"message": "Request too large for model `x` on tokens per minute (TPM): Limit 6000,"
                   " Requested 8000, please reduce your message size and try again.", "type": "tokens",
                   "code": "rate_limit_exceeded"}},
        "context_length_exceeded", False, None,
    ),
    (
        "groq", 400, {},
        {"error": {"message": "Failed to call a function. Please adjust your prompt.",
                   "type": "invalid_request_error", "code": "tool_use_failed",
                   "failed_generation": "<function=weather>"}},
        "provider_bad_response", True, None,
    ),
    ("groq", 498, {}, {"error": {"message": "Flex tier capacity exceeded.", "type": "capacity"}},
     "provider_unavailable", True, None),
    ("moonshot", 401, {}, {"error": {"message": "Invalid Authentication",
                                     "type": "invalid_authentication_error"}}, "provider_auth", False, None),
    (
        "moonshot", 429, {},
        {"error": {"message": "You exceeded your current token quota, please check your account balance",
                   "type": "exceeded_current_quota_error"}},
        "quota_exceeded", False, None,
    ),
    (
        "moonshot", 429, {},
        {"error": {"message": "Your account request reached max concurrency: 1, please try again after 1"
                   " seconds", "type": "rate_limit_reached_error"}},
        "provider_rate_limited", True, None,
    ),
    ("moonshot", 429, {}, {"error": {"message": "The engine is currently overloaded, please try again later",
                                     "type": "engine_overloaded_error"}},
     "provider_rate_limited", True, None),
    ("moonshot", 400, {}, {"error": {"message": "The request was rejected because it was considered high"
                                     " risk", "type": "content_filter"}}, "content_filtered", False, None),
    (
        "moonshot", 400, {},
        {"error": {"message": "Invalid request: Your request exceeded model token limit: 262144 (requested:"
                   " 300000)", "type": "invalid_request_error"}},
        "context_length_exceeded", False, None,
    ),
    ("deepseek", 401, {}, {"error": {"message": "Authentication Fails", "type": "authentication_error",
                                     "code": "invalid_request_error"}}, "provider_auth", False, None),
    ("deepseek", 402, {}, {"error": {"message": "Insufficient Balance", "type": "unknown_error",
                                     "code": "invalid_request_error"}}, "quota_exceeded", False, None),
    ("deepseek", 422, {}, {"error": {"message": "Invalid parameters", "type": "invalid_request_error"}},
     "invalid_model_request", False, None),
    ("deepseek", 429, {}, {"error": {"message": "Rate Limit Reached", "type": "rate_limit_error"}},
     "provider_rate_limited", True, None),
    ("deepseek", 503, {}, {"error": {"message": "Server Overloaded"}}, "provider_unavailable", True, None),
    (
        "deepseek", 400, {},
        {"error": {"message": "This model's maximum context length is 131072 tokens. However, you requested"
                   " 150000 tokens (150000 in the messages, 0 in the completion).",
                   "type": "invalid_request_error"}},
        "context_length_exceeded", False, None,
    ),
    ("ollama", 404, {}, {"error": {"message": "model 'x' not found", "type": "not_found_error"}},
     "model_not_found", False, None),
    ("ollama", 400, {}, {"error": {"message": "registry.ollama.ai/library/x does not support tools",
                                   "type": "invalid_request_error"}}, "invalid_model_request", False, None),
    ("ollama", 500, {}, {"error": {"message": "model requires more system memory (9 GiB) than is available",
                                   "type": "api_error"}}, "provider_unavailable", True, None),
    ("ollama", 503, {}, {"error": {"message": "server busy, please try again.  maximum pending requests"
                                   " exceeded"}}, "provider_unavailable", True, None),
    (
        "vllm", 400, {},
        {"object": "error", "message": "This model's maximum context length is 4096 tokens. However, you"
         " requested 5000 tokens in the messages.", "type": "BadRequestError", "param": None, "code": 400},
        "context_length_exceeded", False, None,
    ),
    ("vllm", 404, {}, {"error": {"message": "The model `x` does not exist.", "type": "NotFoundError",
                                 "code": 404}}, "model_not_found", False, None),
    (
        "vllm", 400, {},
        {"error": {"message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser'
                   " to be set", "type": "BadRequestError", "code": 400}},
        "invalid_model_request", False, None,
    ),
    ("vllm", 401, {}, {"error": "Unauthorized"}, "provider_auth", False, None),
    ("lm_studio", 404, {}, {"error": {"message": 'Model "x" not found', "code": "model_not_found"}},
     "model_not_found", False, None),
    ("lm_studio", 400, {}, {"error": "The number of tokens to keep from the initial prompt is greater than"
                            " the context length (n_keep: 5000 >= n_ctx: 4096)."},
     "context_length_exceeded", False, None),
    ("lm_studio", 200, {}, {"error": "Unexpected endpoint or method. (POST /v1/x)"},
     "provider_misconfigured", False, None),
    (
        "litellm", 401, {},
        {"error": {"message": "Authentication Error, Invalid proxy server token passed.",
                   "type": "auth_error", "param": "None", "code": "401"}},
        "provider_auth", False, None,
    ),
    (
        "litellm", 400, {},
        {"error": {"message": "litellm.ContextWindowExceededError: prompt is too long: 210000 tokens > 200000"
                   " maximum", "type": None, "param": None, "code": "400"}},
        "context_length_exceeded", False, None,
    ),
    (
        "litellm", 429, {"retry-after": "3"},
        {"error": {"message": "litellm.RateLimitError: No deployments available for selected model, Try again"
                   " in 60 seconds.", "type": "throttling_error", "code": "429"}},
        "provider_rate_limited", True, 3.0,
    ),
    ("litellm", 400, {}, {"error": {"message": "Budget has been exceeded! Current cost: 2, Max budget: 1",
                                    "type": "budget_exceeded", "param": None, "code": "400"}},
     "quota_exceeded", False, None),
]  # fmt: skip


@pytest.mark.parametrize(
    "error", ERRORS, ids=[f"{error[0]}-{number}-{error[1]}-{error[4]}" for number, error in enumerate(ERRORS)]
)
async def test_the_errors_of_each_dialect_are_told_apart(
    vendor: Vendor, connect: Connect, error: Error
) -> None:
    provider_type, status, headers, body, code, transient, wait = error
    vendor.will(Reply([msgspec.json.encode(body)], status, {**JSON, **headers}))
    with pytest.raises(ModelError) as caught:
        await connect(provider_type).generate(ask(user("Hi")), Heard())
    found = caught.value
    assert (found.code, found.transient, found.retry_after) == (code, transient, wait), found.message


IN_STREAM: list[tuple[str, Any, str]] = [
    (
        "openrouter",
        {
            "id": "gen-1",
            "error": {"code": "server_error", "message": "Provider disconnected unexpectedly"},
            "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
        },
        "provider_unavailable",
    ),
    ("openrouter", {"error": {"code": 429, "message": "Rate limit exceeded"}}, "provider_rate_limited"),
    ("groq", {"error": {"message": "x", "type": "server_error", "code": "over_capacity"}},
     "provider_unavailable"),
    ("vllm", {"error": {"message": "Internal server error", "type": "InternalServerError", "code": 500}},
     "provider_unavailable"),
    ("litellm", {"error": {"message": "litellm.RateLimitError: slow down", "code": "429"}},
     "provider_rate_limited"),
]  # fmt: skip


@pytest.mark.parametrize("case", IN_STREAM, ids=lambda case: f"{case[0]}-{case[2]}")
async def test_errors_inside_a_stream_are_told_apart(
    vendor: Vendor, connect: Connect, case: tuple[str, Any, str]
) -> None:
    provider_type, event, code = case
    vendor.will(Reply(sse(delta({"content": "Hel"}), event)))
    with pytest.raises(ModelError) as caught:
        await connect(provider_type).generate(ask(user("Hi")), Heard())
    assert (caught.value.code, caught.value.transient) == (code, True)


async def test_deepseek_that_runs_out_of_resources_may_be_asked_again(
    vendor: Vendor, connect: Connect
) -> None:
    vendor.will(Reply(sse(delta({"content": "Hel"}), delta({}, "insufficient_system_resource"))))
    with pytest.raises(ModelError) as caught:
        await connect("deepseek").generate(ask(user("Hi")), Heard())
    assert caught.value.transient
