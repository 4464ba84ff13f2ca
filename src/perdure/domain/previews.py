"""Previews: the prompt and tools that unsaved layers would result in, and findings about them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.ids import HarnessIdText
from perdure.domain.layer_fields import (
    CAPABILITIES,
    HARNESS_ID,
    HARNESS_NAME,
    MCP_SERVERS,
    PARENT_HARNESS_ID,
    SYSTEM_PROMPT,
    TOOLS,
    VARIABLE_VALUES,
    VARIABLES,
)
from perdure.domain.mcp_servers import MCP_NAMES, InlineMcpServers
from perdure.domain.messages import JsonObject
from perdure.domain.resources import AnyName
from perdure.domain.sessions import Prompt
from perdure.domain.tools import Capabilities, Tools
from perdure.domain.variables import Variables, VariableValues

Category = Literal["structure", "completeness", "effectiveness", "safety", "cost"]
Severity = Literal["warning", "info", "suggestion"]


_TOOLS = Meta(
    description="The tools that the model would receive, each with its source.",
    examples=[
        [
            {
                "type": "builtin",
                "name": "get_current_time",
                "description": "Get the current date and time, with the day of the week.",
                "parameters": {"type": "object", "properties": {}},
                "capability_id": "current_time",
                "policy": "auto",
            }
        ]
    ],
)
_WHOLE_PROMPT = Meta(description="The system prompt that the model would receive.")
_FINDINGS = Meta(description="Suggestions for improvement. They do not prevent anything.")


class PreviewAgent(Struct, frozen=True, omit_defaults=True, rename=MCP_NAMES):
    """The body of `POST /v1/agents/preview` and `/analyze`.

    Without a harness, the agent is previewed alone.
    """

    system_prompt: Annotated[Prompt, SYSTEM_PROMPT]
    capabilities: Annotated[Capabilities, CAPABILITIES] = ()
    tools: Annotated[Tools, TOOLS] = ()
    harness_id: Annotated[HarnessIdText | None, HARNESS_ID] = None
    harness_name: Annotated[AnyName | None, HARNESS_NAME] = None
    mcp_servers: Annotated[InlineMcpServers, MCP_SERVERS] = {}
    variables: Annotated[Variables, VARIABLES] = {}
    values: Annotated[VariableValues, VARIABLE_VALUES] = {}


class PreviewHarness(Struct, frozen=True, omit_defaults=True, rename=MCP_NAMES):
    """The body of `POST /v1/harnesses/preview`."""

    system_prompt: Annotated[Prompt | None, SYSTEM_PROMPT] = None
    capabilities: Annotated[Capabilities, CAPABILITIES] = ()
    parent_harness_id: Annotated[HarnessIdText | None, PARENT_HARNESS_ID] = None
    mcp_servers: Annotated[InlineMcpServers, MCP_SERVERS] = {}


class FindingLocation(Struct, frozen=True, omit_defaults=True):
    """A field and, for texts, a span in it: offsets in bytes of UTF-8, with an exclusive end."""

    field: Annotated[str, Meta(description="The name of the field.", examples=["system_prompt"])]
    start: Annotated[
        int | None, Meta(description="The start of the text in the field, in bytes of UTF-8.")
    ] = None
    end: Annotated[
        int | None, Meta(description="The end of the text in the field (exclusive), in bytes of UTF-8.")
    ] = None


class Finding(Struct, frozen=True, omit_defaults=True):
    """One remark about an agent.

    Findings are only advice, but a `structure` finding names a setting that would be refused on storing.
    """

    rule_id: Annotated[
        str, Meta(description="The stable identifier of the rule that found it.", examples=["prompt_short"])
    ]
    category: Annotated[
        Category,
        Meta(
            description=(
                "The subject of the finding. `structure`: the configuration would be refused when stored."
            ),
            examples=["completeness"],
        ),
    ]
    severity: Annotated[Severity, Meta(description="How serious the finding is.", examples=["suggestion"])]
    message: Annotated[
        str,
        Meta(
            description="What was found, for people.",
            examples=["The prompt hardly says what the agent is for."],
        ),
    ]
    source: Annotated[Literal["builtin"], Meta(description="What produced the finding.")]
    fix: Annotated[str | None, Meta(description="How to fix it.")] = None
    location: Annotated[
        FindingLocation | None,
        Meta(description="The place that the finding is about.", examples=[{"field": "system_prompt"}]),
    ] = None


class Analysis(Struct, frozen=True):
    """The findings about an agent."""

    findings: Annotated[tuple[Finding, ...], _FINDINGS]


class AgentPreview(Struct, frozen=True):
    """The prompt and tools that the model would receive for an agent, and the findings."""

    system_prompt: Annotated[
        str, _WHOLE_PROMPT, Meta(examples=["<agent>\nYou answer questions about orders.\n</agent>"])
    ]
    tools: Annotated[tuple[JsonObject, ...], _TOOLS]
    findings: Annotated[tuple[Finding, ...], _FINDINGS, Meta(examples=[[]])]


class HarnessPreview(Struct, frozen=True):
    """The prompt and tools that the model would receive for a harness."""

    system_prompt: Annotated[str, _WHOLE_PROMPT, Meta(examples=["<harness>\nAnswer briefly.\n</harness>"])]
    tools: Annotated[tuple[JsonObject, ...], _TOOLS]
