"""What follows from a model's name."""

from __future__ import annotations

import pytest
from genai_prices.data_snapshot import get_snapshot

from perdure.llm.model_table import converses, described, plain_model_name, vendor_of_model


@pytest.mark.parametrize(
    ("model", "family", "context", "output", "reasoning", "sees"),
    [
        ("gpt-6.1-sol", "gpt-6", 1_050_000, 128_000, True, True),
        ("gpt-5-mini-2025-08-07", "gpt-5", 400_000, 128_000, True, True),
        ("gpt-5.4-mini", "gpt-5", 400_000, 128_000, True, True),
        ("gpt-5.6-terra", "gpt-5", 1_050_000, 128_000, True, True),
        ("gpt-5-chat-latest", "gpt-5", 128_000, 16_384, False, True),
        ("gpt-4o-mini", "gpt-4o", 128_000, 16_384, False, True),
        ("gpt-4-0613", "gpt-4", 8_192, 8_192, False, False),
        ("gpt-3.5-turbo", "gpt-3.5", 16_385, 4_096, False, False),
        ("o3-mini", "o3", 200_000, 100_000, True, False),
        ("openai/gpt-oss-20b:free", "gpt-oss", 131_072, 131_072, True, False),
        ("claude-3-5-haiku-20241022", "claude", 200_000, 8_192, False, True),
        ("claude-3-7-sonnet-latest", "claude", 200_000, 64_000, True, True),
        ("claude-opus-4-1-20250805", "claude", 200_000, 32_000, True, True),
        ("claude-opus-4-20250514", "claude", 200_000, 32_000, True, True),
        ("claude-sonnet-4-20250514", "claude", 200_000, 64_000, True, True),
        ("claude-opus-4-5", "claude", 200_000, 64_000, True, True),
        ("claude-haiku-4-5-20251001", "claude", 200_000, 64_000, True, True),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude", 200_000, 64_000, True, True),
        ("anthropic/claude-sonnet-4.6", "claude", 1_000_000, 128_000, True, True),
        ("claude-sonnet-5-5", "claude", 1_000_000, 128_000, True, True),
        ("gemini-2.5-pro", "gemini", 1_048_576, 65_536, True, True),
        ("gemini-3-pro-preview", "gemini", 1_048_576, 65_536, True, True),
    ],
)
def test_a_vendors_model_is_recognized_by_its_name(
    model: str, family: str, context: int, output: int, reasoning: bool, sees: bool
) -> None:
    profile = described(model)
    assert profile is not None
    assert profile.limits is not None
    assert (profile.family, profile.limits.context, profile.limits.output) == (family, context, output)
    assert (profile.reasoning, profile.attachment, profile.tool_call) == (reasoning, sees, True)


def test_windows_agree_with_the_price_list() -> None:
    """One side has round numbers, the other exact ones: differences of up to a twentieth are ignored."""
    different = []
    for provider in get_snapshot().providers:
        if provider.id not in ("openai", "anthropic"):
            continue
        for model in provider.models:
            profile = described(model.id)
            if profile is None or profile.limits is None or model.context_window is None:
                continue
            if abs(profile.limits.context - model.context_window) > model.context_window / 20:
                different.append(f"{model.id}: {profile.limits.context}, not {model.context_window}")
    # The list's `gpt-5.3` is the chat model; by that name the vendor has none.
    assert [line for line in different if not line.startswith("gpt-5.3:")] == []


@pytest.mark.parametrize(
    "model",
    [
        "text-embedding-3-small",
        "whisper-1",
        "tts-1-hd",
        "gpt-4o-realtime-preview",
        "gpt-image-1",
        "dall-e-3",
        "omni-moderation-latest",
        "gpt-4o-mini-transcribe",
        "mistral-ocr-latest",
        "davinci-002",
        "gemini-2.5-flash-image",
        "rerank-v3.5",
        "gpt-audio-mini",
    ],
)
def test_models_for_other_tasks_are_recognized(model: str) -> None:
    assert not converses(model)
    assert described(model) is None


@pytest.mark.parametrize(
    "model", ["gpt-6-luna", "smollm2-135m", "claude-3-opus", "llama-3.3-70b", "qwen2.5-vl-7b", "simulated"]
)
def test_models_that_may_converse_are_accepted(model: str) -> None:
    assert converses(model)


@pytest.mark.parametrize(
    ("model", "vendor"),
    [
        ("gpt-5-mini", "openai"),
        ("claude-sonnet-5", "anthropic"),
        ("google/gemini-2.5-pro", "google"),
        ("qwen3-32b", "qwen"),
        ("grok-4", "xai"),
        ("kimi-k2", "moonshot"),
        ("MiniMax-M2", "minimax"),
        ("phi-4", "microsoft"),
        ("mistral-large", None),
        ("claude-v1", "anthropic"),
        ("something", None),
        ("us.amazon.nova-2-lite-v1:0", None),
        ("openai.gpt-oss-120b-1:0", "openai"),
    ],
)
def test_the_vendor_of_a_model_follows_from_its_name(model: str, vendor: str | None) -> None:
    assert vendor_of_model(model) == vendor


def test_models_accept_a_temperature_unless_their_vendor_rejects_it() -> None:
    takes = {
        name: (described(name) or pytest.fail(name)).temperature
        for name in ("gpt-4o", "gpt-5", "claude-sonnet-4-6", "claude-opus-4-7")
    }
    assert takes == {"gpt-4o": True, "gpt-5": False, "claude-sonnet-4-6": True, "claude-opus-4-7": False}


def test_the_additions_of_gateways_to_a_name_are_stripped() -> None:
    assert plain_model_name("eu.anthropic.claude-sonnet-4-5-v1:0") == "claude-sonnet-4-5-v1"
    assert plain_model_name("us.amazon.nova-2-lite-v1:0") == "nova-2-lite-v1"
    assert plain_model_name("deepseek.v3-v1:0") == "deepseek.v3-v1"
    assert plain_model_name("accounts/fireworks/models/Qwen3-8B") == "qwen3-8b"
