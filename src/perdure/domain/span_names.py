"""The names of spans' attributes, from OpenTelemetry's semantic conventions for generative AI.

The conventions are still in development, so no other module spells out a name. `perdure.*` are our own.
Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from __future__ import annotations

from types import MappingProxyType

INVOKE_AGENT, CHAT, EXECUTE_TOOL = "invoke_agent", "chat", "execute_tool"
"""The operations."""

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
CONVERSATION = "gen_ai.conversation.id"
AGENT_ID = "gen_ai.agent.id"
AGENT_NAME = "gen_ai.agent.name"
AGENT_VERSION = "gen_ai.agent.version"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
TOOL_NAME = "gen_ai.tool.name"
TOOL_CALL_ID = "gen_ai.tool.call.id"
TOOL_TYPE = "gen_ai.tool.type"
ERROR_TYPE = "error.type"

# Content, which is exported only if it is asked for.
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
TOOL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_RESULT = "gen_ai.tool.call.result"

ORGANIZATION = "perdure.organization.id"
ROOT_SESSION = "perdure.root_session.id"
TURN = "perdure.turn.id"
TURN_STATUS = "perdure.turn.status"
MODEL_CALLS = "perdure.turn.model_calls"
COST = "perdure.usage.cost_usd"
ATTEMPTS = "perdure.model.attempts"
FIRST_TOKEN = "perdure.model.time_to_first_token_ms"  # noqa: S105 (a token of a model)
TOOL_STATUS = "perdure.tool.status"
CHECK = "perdure.guardrail.id"

_PROVIDERS = MappingProxyType(
    {
        "openai_completions": "openai",
        "azure_openai": "azure.ai.openai",
        "bedrock": "aws.bedrock",
        "gemini": "gcp.gemini",
        "mistral": "mistral_ai",
    }
)


def provider_name(provider_type: str) -> str:
    """The conventions' name of a provider type; those that they do not know keep their own."""
    return _PROVIDERS.get(provider_type, provider_type)
