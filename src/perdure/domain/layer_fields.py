"""Descriptions of the fields that agents, harnesses and sessions share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from perdure.domain.ids import ModelIdText

MAX_FALLBACKS = 5
FallbackModels = Annotated[tuple[ModelIdText, ...], Meta(max_length=MAX_FALLBACKS)]

NAME = Meta(description="The name: lower-case letters, digits and hyphens, unique in the organization.")
DISPLAY_NAME = Meta(description="The name that people see.")
DESCRIPTION = Meta(description="The purpose, for people.")
HARNESS_ID = Meta(description="The harness that this builds on.")
HARNESS_NAME = Meta(
    description="The name of the harness that this builds on. Give this or `harness_id`, not both."
)
DEFAULT_MODEL_ID = Meta(
    description="The model to use unless a message, a session or an agent above names another."
)
CAPABILITIES = Meta(description="The capabilities enabled at this level, in addition to those inherited.")
TOOLS = Meta(description="The tools defined at this level, in addition to those of the capabilities.")
TAGS = Meta(
    description=("Labels for organizing and filtering: at most 50, without duplicates, in the given order.")
)
SYSTEM_PROMPT = Meta(description="The instructions for the model at this level.")
INITIAL_FILES = Meta(description="The files that each new session starts with.")
MAX_ITERATIONS = Meta(description="The maximum number of model calls in one turn.")
PARALLEL_TOOL_CALLS = Meta(
    description="Whether the model may request several tool calls at once. Default: the vendor's own."
)
NETWORK_ACCESS = Meta(description="The hosts that the session's tools may reach.")
PARENT_HARNESS_ID = Meta(description="The harness that this one inherits from.")
MCP_SERVERS = Meta(description="MCP servers defined at this level, by name, in addition to those inherited.")
OUTPUT_SCHEMA = Meta(
    description=(
        "A JSON Schema of the final answer. A turn then ends with a value that matches it, or fails with "
        "`output_invalid`."
    )
)
RESPONSE_FORMAT = Meta(
    description=(
        "The same as `output_schema`, in the form `{type: json_schema, json_schema: {name, schema}}`. "
        "Give one of the two."
    )
)
VARIABLES = Meta(
    description=(
        "The variables of the agent's prompt by name: `{{name}}` there is replaced by the value that a "
        "message or its session gives, or by the default."
    )
)
VARIABLE_VALUES = Meta(description="Values of the variables in the agent's prompt, by name.")
FALLBACK_MODELS = Meta(
    description=(
        "The ids of the models to use, in this order, when the model cannot be reached or is overloaded."
    )
)
EXPOSE_MCP = Meta(
    description="Whether the agent is a tool of this server's MCP endpoint (`POST /mcp`), named `agent_NAME`."
)
