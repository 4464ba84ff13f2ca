"""Derive a model's family, inputs, limits and abilities from its name.

The data comes from the vendors' pages about their models (OpenAI, Anthropic, Google), as of November 2026.
Prices change more often and are elsewhere, see `prices`. A model that is not listed here is unknown, but the
provider's list of models or the price list may still know it.
"""

from __future__ import annotations

import re

from msgspec import Struct

from perdure.domain.model_profiles import (
    EffortConfig,
    EffortValue,
    Modality,
    ModelLimits,
    ModelModalities,
    ModelProfile,
    ModelVendor,
    ReasoningEffort,
)
from perdure.llm.anthropic import claude_version
from perdure.llm.openai_common import knows_phases

_TEXT: tuple[Modality, ...] = ("text",)
_IMAGES: tuple[Modality, ...] = ("text", "image")
_DOCUMENTS: tuple[Modality, ...] = ("text", "image", "pdf")
_EVERYTHING: tuple[Modality, ...] = ("text", "image", "audio", "video", "pdf")

Efforts = tuple[ReasoningEffort, ...]
_LOW_TO_HIGH: Efforts = ("low", "medium", "high")
_MINIMAL_TO_HIGH: Efforts = ("minimal", "low", "medium", "high")
_NONE_TO_HIGH: Efforts = ("none", "low", "medium", "high")
_NONE_TO_XHIGH: Efforts = ("none", "low", "medium", "high", "xhigh")
_BUDGETS: Efforts = ("none", "minimal", "low", "medium", "high")
_EFFORT_NAMES: dict[ReasoningEffort, str] = {
    "none": "None",
    "minimal": "Minimal",
    "low": "Low",
    "medium": "Medium",
    "high": "High",
    "xhigh": "Extra high",
}


class _Kind(Struct, frozen=True):
    """What models with a matching name have in common; `default` is the effort when a call sets none."""

    pattern: re.Pattern[str]
    family: str
    vendor: ModelVendor | None
    context: int | None = None
    output: int | None = None
    inputs: tuple[Modality, ...] = _TEXT
    efforts: Efforts = ()
    default: ReasoningEffort = "medium"
    reasoning: bool = False
    temperature: bool = True
    tools: bool = True
    structured: bool = False
    open_weights: bool = False


def _openai(
    pattern: str,
    family: str,
    context: int,
    output: int,
    efforts: Efforts = (),
    inputs: tuple[Modality, ...] = _IMAGES,
) -> _Kind:
    """Describe an OpenAI model: the ones that reason accept no temperature."""
    return _Kind(
        re.compile(pattern),
        family,
        "openai",
        context,
        output,
        inputs,
        efforts,
        default="none" if "none" in efforts else "medium",
        reasoning=bool(efforts),
        temperature=not efforts,
        structured=True,
    )


def _claude(
    pattern: str, context: int, output: int, efforts: Efforts = (), inputs: tuple[Modality, ...] = _DOCUMENTS
) -> _Kind:
    return _Kind(
        re.compile(pattern),
        "claude",
        "anthropic",
        context,
        output,
        inputs,
        efforts,
        default="none" if "none" in efforts else "high",
        reasoning=bool(efforts),
    )


def _gemini(pattern: str, efforts: Efforts, default: ReasoningEffort = "medium") -> _Kind:
    return _Kind(
        re.compile(pattern),
        "gemini",
        "google",
        1_048_576,
        65_536,
        _EVERYTHING,
        efforts,
        default=default,
        reasoning=True,
        structured=True,
    )


def _other(
    pattern: str,
    family: str,
    vendor: ModelVendor | None = None,
    *,
    inputs: tuple[Modality, ...] = _TEXT,
    reasoning: bool = False,
    open_weights: bool = False,
) -> _Kind:
    return _Kind(
        re.compile(pattern), family, vendor, inputs=inputs, reasoning=reasoning, open_weights=open_weights
    )


_OPENAI = (
    _Kind(
        re.compile(r"^gpt-oss"), "gpt-oss", "openai", 131_072, 131_072, _TEXT, _LOW_TO_HIGH,
        reasoning=True, structured=True, open_weights=True,
    ),
    _openai(r"^gpt-3\.5", "gpt-3.5", 16_385, 4_096, inputs=_TEXT),
    _openai(r"^gpt-4-(turbo|1106|0125|vision)", "gpt-4", 128_000, 4_096),
    _openai(r"^(chatgpt|gpt)-4o", "gpt-4o", 128_000, 16_384),
    _openai(r"^gpt-4\.1", "gpt-4.1", 1_047_576, 32_768),
    _openai(r"^gpt-4\.5", "gpt-4.5", 128_000, 16_384),
    _openai(r"^gpt-4-32k", "gpt-4", 32_768, 32_768, inputs=_TEXT),
    _openai(r"^gpt-4(-0\d+)?$", "gpt-4", 8_192, 8_192, inputs=_TEXT),
    _Kind(
        re.compile(r"^o1-(mini|preview)"), "o1", "openai", 128_000, 32_768,
        reasoning=True, temperature=False, tools=False,
    ),
    _openai(r"^o3-mini", "o3", 200_000, 100_000, _LOW_TO_HIGH, _TEXT),
    _openai(r"^o1", "o1", 200_000, 100_000, _LOW_TO_HIGH),
    _openai(r"^o3", "o3", 200_000, 100_000, _LOW_TO_HIGH),
    _openai(r"^o4-mini", "o4", 200_000, 100_000, _LOW_TO_HIGH),
    _openai(r"^gpt-5([.-]\d)?-chat", "gpt-5", 128_000, 16_384),
    _openai(r"^gpt-5-pro", "gpt-5", 400_000, 272_000, ("high",)),
    _openai(r"^gpt-5(-(mini|nano|codex).*|-20\d\d.*)?$", "gpt-5", 400_000, 128_000, _MINIMAL_TO_HIGH),
    _openai(r"^gpt-5\.1(-|$)", "gpt-5", 400_000, 128_000, _NONE_TO_HIGH),
    _openai(r"^gpt-5\.[23](-|$)", "gpt-5", 400_000, 128_000, _NONE_TO_XHIGH),
    _openai(r"^gpt-5\.4-(mini|nano)", "gpt-5", 400_000, 128_000, _NONE_TO_XHIGH),
    _openai(r"^gpt-5\.[4-9](-|$)", "gpt-5", 1_050_000, 128_000, _NONE_TO_XHIGH, _DOCUMENTS),
    _openai(r"^gpt-6(\.\d)?-(astra|sol|terra|luna)", "gpt-6", 1_050_000, 128_000, _NONE_TO_XHIGH, _DOCUMENTS),
)  # fmt: skip

_CLAUDE = (
    _claude(
        r"claude-(opus|sonnet|haiku)-3-[01]|claude-3-(opus|sonnet|haiku)", 200_000, 4_096, inputs=_IMAGES
    ),
    _claude(r"claude-3[.-]5|claude-(sonnet|haiku)-3[.-]5", 200_000, 8_192),
    _claude(r"claude-3[.-]7|claude-sonnet-3[.-]7", 200_000, 64_000, _BUDGETS),
    _claude(r"claude-opus-4(-[01]|-20|@|$)|claude-4-opus", 200_000, 32_000, _BUDGETS),
    _claude(
        r"claude-(opus|sonnet|haiku)-4(-[05](-|@|$)|-20|[.]5|@|$)|claude-4-sonnet", 200_000, 64_000, _BUDGETS
    ),
    _claude(r"claude-(opus|sonnet)-4[.-][6-9]", 1_000_000, 128_000, _LOW_TO_HIGH),
    _claude(r"claude-[a-z]+-[5-9]", 1_000_000, 128_000, _LOW_TO_HIGH),
)

_OTHERS = (
    _Kind(
        re.compile(r"^gemini-1\.5"), "gemini-1.5", "google", 1_048_576, 8_192, _EVERYTHING, structured=True
    ),
    _Kind(
        re.compile(r"^gemini-2\.0"), "gemini-2.0", "google", 1_048_576, 8_192, _EVERYTHING, structured=True
    ),
    _gemini(r"^gemini-2\.5-pro", _MINIMAL_TO_HIGH),
    _gemini(r"^gemini-2\.5", _BUDGETS),
    _gemini(r"^gemini-[3-9].*flash", _MINIMAL_TO_HIGH, "high"),
    _gemini(r"^gemini-[3-9]", _LOW_TO_HIGH, "high"),
    _other(r"^nova-2", "nova", inputs=_IMAGES, reasoning=True),
    _other(r"^nova-micro", "nova"),
    _other(r"^nova", "nova", inputs=_IMAGES),
    _other(r"^gemma", "gemma", "google", open_weights=True),
    _other(r"^(qwq|qwen\d.*thinking)", "qwen", "qwen", reasoning=True, open_weights=True),
    _other(r"^qwen.*vl", "qwen", "qwen", inputs=_IMAGES, open_weights=True),
    _other(r"^qwen-(max|plus|turbo|flash)", "qwen", "qwen"),
    _other(r"^qwen", "qwen", "qwen", open_weights=True),
    _other(r"nemotron", "nemotron", "nvidia", open_weights=True),
    _other(r"^phi-?\d", "phi", "microsoft", open_weights=True),
    _other(r"^minimax-m", "minimax", "minimax", reasoning=True),
    _other(r"^minimax", "minimax", "minimax"),
    _other(r"^kimi-k\d.*thinking", "kimi", "moonshot", reasoning=True, open_weights=True),
    _other(r"^(kimi|moonshot)", "kimi", "moonshot"),
    _other(r"^grok-([4-9]|3-mini|code)(?!.*non-reasoning)", "grok", "xai", inputs=_IMAGES, reasoning=True),
    _other(r"^grok", "grok", "xai"),
    _other(r"^deepseek-(r\d|reasoner)", "deepseek", reasoning=True, open_weights=True),
    _other(r"^deepseek", "deepseek", open_weights=True),
    _other(r"^magistral", "mistral", reasoning=True),
    _other(r"^pixtral", "mistral", inputs=_IMAGES),
    _other(r"^(open-)?(mistral|mixtral|ministral|codestral|devstral)", "mistral"),
    _other(r"^(meta-)?llama-?(3\.2.*vision|4)", "llama", inputs=_IMAGES, open_weights=True),
    _other(r"^(meta-|code)?llama", "llama", open_weights=True),
    _other(r"^glm-", "glm", open_weights=True),
    _other(r"^smollm", "smollm", open_weights=True),
    _other(r"^command-", "command"),
)

_KINDS = (*_OPENAI, *_CLAUDE, *_OTHERS)

_OTHER_TASKS = re.compile(
    r"embed|whisper|(^|-)(tts|audio|live|ocr|veo|sora|voice|guard)(-|$)|transcri|speech|dall-e|image"
    r"|moderation|realtime|rerank|(text|code)-(davinci|curie|babbage|ada)|^(davinci|babbage|curie|ada)(-|$)"
    r"|gpt-3\.5-turbo-instruct|nano-banana"
)

_MAKERS = "amazon|anthropic|cohere|google|meta|minimax|mistral|moonshot(?:ai)?|nvidia|openai|qwen"
"""Whose names Amazon Bedrock puts in front of a model's."""

_VENDORS: tuple[tuple[str, ModelVendor], ...] = (
    ("claude", "anthropic"),
    ("gpt-", "openai"),
    ("gemini", "google"),
)


def plain_model_name(model: str) -> str:
    """Strip what gateways add to a name, as in `us.anthropic.claude-x` or `openai/gpt-x:free`."""
    name = model.lower().rsplit("/", 1)[-1].split(":", 1)[0]
    return re.sub(rf"^(?:[a-z]{{2,6}}\.)?(?:{_MAKERS})\.", "", name)


def converses(model: str) -> bool:
    """Whether the model converses, by its name: not if it is for embeddings, speech or images."""
    return _OTHER_TASKS.search(plain_model_name(model)) is None


def vendor_of_model(model: str) -> ModelVendor | None:
    """Return the vendor of the model, by its name."""
    name = plain_model_name(model)
    kind = _kind(name)
    if kind is not None:
        return kind.vendor
    return next((vendor for word, vendor in _VENDORS if word in name), None)


def described(model: str) -> ModelProfile | None:
    """Return the model's profile without prices, or None if it is unknown or does not converse."""
    name = plain_model_name(model)
    kind = _kind(name) if converses(name) else None
    if kind is None:
        return None
    version = claude_version(name)
    efforts = tuple(EffortValue(effort, _EFFORT_NAMES[effort]) for effort in kind.efforts)
    return ModelProfile(
        name=name,
        family=kind.family,
        attachment=kind.inputs != _TEXT,
        reasoning=kind.reasoning,
        # Claude 4.7 and later reject the parameter.
        temperature=kind.temperature and (version is None or version < (4, 7)),
        tool_call=kind.tools,
        structured_output=kind.structured,
        open_weights=kind.open_weights,
        supports_phases=knows_phases(name),
        limits=None
        if kind.context is None or kind.output is None
        else ModelLimits(kind.context, kind.output),
        modalities=ModelModalities(kind.inputs, _TEXT),
        reasoning_effort=EffortConfig(efforts, kind.default) if efforts else None,
    )


def _kind(name: str) -> _Kind | None:
    return next((kind for kind in _KINDS if kind.pattern.search(name)), None)
