"""The dialects of Chat Completions: what each vendor or server wants, as data.

A provider type names its dialect. For the type `openai_completions`, the host does, and any other server
gets `PLAIN`. What a server refuses beyond its dialect shows when it refuses a call; see `llm/parameters.py`.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Effort = Literal["reasoning_effort", "reasoning", "thinking", "thinking_effort"]
Schemas = Literal["always", "alone", "never"]


class Dialect(Struct, frozen=True, kw_only=True):
    """How one vendor or server speaks Chat Completions.

    Attributes:
        name: the provider type.
        title: the display name.
        base_url: its own address; None if every customer has another one.
        hosts: whose addresses end so speak this dialect, whatever the provider's type.
        key_variable: the variable from which the vendor's own tools read the key, for the vendor's own
            address; None if it has none.
        key_header: the header of the key; None for `Authorization: Bearer`.
        seller: the vendor's id in the price list; empty if its own address has no prices.
        limit_field: the field that limits the size of an answer.
        limits: the limit in tokens where the call sets none, for models whose name has the word. The
            vendor's own default is too small for models that reason.
        refused: the parameters that it is never sent.
        effort: where the reasoning effort goes: to `reasoning_effort`, to `reasoning.effort`, as on and off
            to `thinking.type`, or to both `thinking.type` and `reasoning_effort`.
        must_call: the `tool_choice` that makes the model call a tool; None if there is none.
        schemas: when `response_format` may ask for a JSON Schema: beside tools too, without tools, or never.
        strict_schemas: whether schemas are narrowed to what OpenAI's strict mode knows.
        returns_thinking: whether it wants its reasoning back with tool calls; None if the model's name tells.
        blocks: the field with signed reasoning, which goes back as it came; None if there is none.
        short_ids: whether call ids have nine letters and digits, and a user never follows a tool.
        system_role: whether system messages may stand in the middle.
        fixed_temperature: whether models that reason refuse a temperature.
        cache_key: whether it knows `prompt_cache_key`.
        open_list: whether it lists its models to everybody.
        models_path: the route of the list of models.
        deployments: whether the address may name a deployment and an `api-version`, as Azure's do.
        help: how to get a key, in Markdown.
    """

    name: str
    title: str
    base_url: str | None = None
    hosts: tuple[str, ...] = ()
    key_variable: str | None = None
    key_header: str | None = None
    seller: str = ""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    limits: tuple[tuple[str, int], ...] = ()
    refused: frozenset[str] = frozenset()
    effort: Effort = "reasoning_effort"
    must_call: str | None = "required"
    schemas: Schemas = "alone"
    strict_schemas: bool = False
    returns_thinking: bool | None = None
    blocks: str | None = None
    short_ids: bool = False
    system_role: bool = False
    fixed_temperature: bool = False
    cache_key: bool = False
    open_list: bool = False
    models_path: str = "/models"
    deployments: bool = False
    help: str = ""


PLAIN = Dialect(name="openai_completions", title="OpenAI Chat Completions")

OPENAI = Dialect(
    name="openai_completions",
    title="OpenAI Chat Completions",
    base_url="https://api.openai.com/v1",
    hosts=("openai.com",),
    seller="openai",
    limit_field="max_completion_tokens",
    schemas="always",
    strict_schemas=True,
    returns_thinking=False,
    system_role=True,
    fixed_temperature=True,
    cache_key=True,
)

AZURE = Dialect(
    name="azure_openai",
    title="Azure OpenAI",
    hosts=("openai.azure.com",),
    key_header="api-key",
    limit_field="max_completion_tokens",
    schemas="always",
    strict_schemas=True,
    returns_thinking=False,
    system_role=True,
    fixed_temperature=True,
    cache_key=True,
    deployments=True,
    help=(
        "Enter the resource's `base_url`, such as `https://NAME.openai.azure.com`, and one of its two keys"
        " from the [Azure portal](https://portal.azure.com). A model is called by the name of its deployment."
    ),
)

_SERVER_HELP = "A key is only needed if the server was started with one."

NAMED: tuple[Dialect, ...] = (
    AZURE,
    Dialect(
        name="openrouter",
        title="OpenRouter",
        base_url="https://openrouter.ai/api/v1",
        hosts=("openrouter.ai",),
        key_variable="OPENROUTER_API_KEY",
        seller="openrouter",
        effort="reasoning",
        returns_thinking=False,
        blocks="reasoning_details",
        open_list=True,
        help="Create a key at [openrouter.ai](https://openrouter.ai/settings/keys).",
    ),
    Dialect(
        name="mistral",
        title="Mistral",
        base_url="https://api.mistral.ai/v1",
        hosts=("mistral.ai",),
        key_variable="MISTRAL_API_KEY",
        seller="mistral",
        refused=frozenset({"stream_options"}),
        must_call="any",
        returns_thinking=False,
        short_ids=True,
        help="Create a key at [console.mistral.ai](https://console.mistral.ai/api-keys).",
    ),
    Dialect(
        name="groq",
        title="Groq",
        base_url="https://api.groq.com/openai/v1",
        hosts=("groq.com",),
        key_variable="GROQ_API_KEY",
        seller="groq",
        limit_field="max_completion_tokens",
        returns_thinking=False,
        help="Create a key at [console.groq.com](https://console.groq.com/keys).",
    ),
    Dialect(
        name="moonshot",
        title="Moonshot AI",
        base_url="https://api.moonshot.ai/v1",
        hosts=("moonshot.ai", "moonshot.cn", "kimi.com"),
        key_variable="MOONSHOT_API_KEY",
        seller="moonshotai",
        limits=(("kimi", 32_000),),
        refused=frozenset({"parallel_tool_calls"}),
        effort="thinking",
        must_call=None,
        returns_thinking=True,
        help=(
            "Create a key at [platform.moonshot.ai](https://platform.moonshot.ai/console/api-keys). Keys of"
            " `platform.moonshot.cn` need the `base_url` `https://api.moonshot.cn/v1`."
        ),
    ),
    Dialect(
        name="deepseek",
        title="DeepSeek",
        base_url="https://api.deepseek.com/v1",
        hosts=("deepseek.com",),
        key_variable="DEEPSEEK_API_KEY",
        seller="deepseek",
        refused=frozenset({"parallel_tool_calls"}),
        effort="thinking_effort",
        must_call=None,
        schemas="never",
        returns_thinking=True,
        help="Create a key at [platform.deepseek.com](https://platform.deepseek.com/api_keys).",
    ),
    Dialect(
        name="ollama",
        title="Ollama",
        base_url="http://127.0.0.1:11434/v1",
        refused=frozenset({"parallel_tool_calls"}),
        must_call=None,
        help=f"Without `base_url`, calls go to this machine, port 11434. {_SERVER_HELP}",
    ),
    Dialect(
        name="vllm",
        title="vLLM",
        base_url="http://127.0.0.1:8000/v1",
        help=(
            "Without `base_url`, calls go to this machine, port 8000. For tools, start the server with"
            f" `--enable-auto-tool-choice` and `--tool-call-parser`. {_SERVER_HELP}"
        ),
    ),
    Dialect(
        name="lm_studio",
        title="LM Studio",
        base_url="http://127.0.0.1:1234/v1",
        refused=frozenset({"parallel_tool_calls"}),
        help=f"Without `base_url`, calls go to this machine, port 1234. {_SERVER_HELP}",
    ),
    Dialect(
        name="litellm",
        title="LiteLLM",
        base_url="http://127.0.0.1:4000/v1",
        returns_thinking=False,
        blocks="thinking_blocks",
        help=f"Without `base_url`, calls go to the proxy on this machine, port 4000. {_SERVER_HELP}",
    ),
)
"""The dialects that are provider types of their own."""

_MIMO = Dialect(
    name="openai_completions",
    title="MiMo",
    hosts=("xiaomimimo.com",),
    returns_thinking=True,
)

_BY_NAME = {each.name: each for each in NAMED}
_BY_HOST = (OPENAI, *NAMED, _MIMO)

CHAT_TYPES = frozenset({PLAIN.name, *_BY_NAME})
"""The provider types that speak Chat Completions."""


def dialect_of(provider_type: str, host: str) -> Dialect:
    """Return the dialect of a server: the one that its type names, or else the one of its host."""
    named = _BY_NAME.get(provider_type)
    if named is not None:
        return named
    return next((each for each in _BY_HOST if each.hosts and host.endswith(each.hosts)), PLAIN)


def own_address(provider_type: str) -> str | None:
    """Return where a provider of this type is called without a `base_url`; None if it needs one."""
    return _BY_NAME.get(provider_type, OPENAI).base_url
