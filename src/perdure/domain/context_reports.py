"""Reports on what fills a session's context, in tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.data_flow import External
from perdure.domain.ids import SessionId
from perdure.domain.messages import Usage

_LABEL = Meta(description="The name of the entry, for people.")
_TOKENS = Meta(description="The estimated number of tokens.")


class ContextReportSection(Struct, frozen=True):
    """One section of the context."""

    key: Annotated[
        str,
        Meta(
            description=(
                "`system_prompt`, `tools`, `summary`, `user_messages`, `agent_messages` or `tool_results`."
            ),
        ),
    ]
    label: Annotated[str, _LABEL]
    tokens: Annotated[int, _TOKENS]
    items: Annotated[int, Meta(description="The number of entries in the section.")]


class ContextReportContribution(Struct, frozen=True):
    """The tokens that one source adds to a section."""

    section_key: Annotated[str, Meta(description="The `key` of the section.")]
    source_id: Annotated[
        str,
        Meta(description="A capability's id, a layer's name, a tool's name, or `client_side`."),
    ]
    label: Annotated[str, _LABEL]
    tokens: Annotated[int, _TOKENS]


class EffectivePolicy(Struct, frozen=True):
    """The policies that apply to a session's tool calls."""

    approval_required: Annotated[
        tuple[str, ...],
        Meta(description="The tools whose calls wait for a person's approval.", examples=[["bash"]]),
    ]
    rejected: Annotated[
        tuple[str, ...], Meta(description="The tools whose calls are always rejected.", examples=[[]])
    ]
    allowed_hosts: Annotated[
        tuple[tuple[str, ...], ...],
        Meta(
            description=(
                "Lists of hosts: tools may reach a host if each list allows it. Without any list, all hosts."
            ),
            examples=[[["example.com", "*.example.com"]]],
        ),
    ]
    blocked_hosts: Annotated[
        tuple[str, ...], Meta(description="The hosts that tools may not reach.", examples=[[]])
    ]
    exfiltration: Annotated[
        Literal["off", "ask"],
        Meta(
            description=(
                "`ask`: once text from outside is in the context, calls that can send data out wait for "
                "approval."
            ),
            examples=["off"],
        ),
    ] = "off"


class SessionContextReport(Struct, frozen=True, omit_defaults=True):
    """An estimate of the input of a session's next model call."""

    session_id: Annotated[SessionId, Meta(description="The session that the report is about.")]
    model: Annotated[
        str,
        Meta(
            description="The vendor's name of the model for the next call; empty if none is configured.",
            examples=["gpt-5"],
        ),
    ]
    estimated_input_tokens: Annotated[
        int, Meta(description="The estimated number of tokens of all sections together.", examples=[2310])
    ]
    sections: Annotated[
        tuple[ContextReportSection, ...],
        Meta(
            description="The parts of the context, in the order in which the model receives them.",
            examples=[
                [
                    {"key": "system_prompt", "label": "System prompt", "tokens": 410, "items": 2},
                    {"key": "user_messages", "label": "Messages of the user", "tokens": 1900, "items": 12},
                ]
            ],
        ),
    ]
    contributions: Annotated[
        tuple[ContextReportContribution, ...],
        Meta(
            description="How many tokens each capability, layer and tool adds to a section.",
            examples=[
                [
                    {
                        "section_key": "system_prompt",
                        "source_id": "support-desk",
                        "label": "Agent support-desk",
                        "tokens": 290,
                    },
                    {
                        "section_key": "system_prompt",
                        "source_id": "session_file_system",
                        "label": "Files",
                        "tokens": 120,
                    },
                ]
            ],
        ),
    ]
    context_window_tokens: Annotated[
        int | None,
        Meta(description="The size of the model's context window in tokens, if known.", examples=[400000]),
    ] = None
    cumulative_usage: Annotated[
        Usage | None, Meta(description="The usage of all model calls of the session so far.")
    ] = None
    policy: Annotated[
        EffectivePolicy | None,
        Meta(description="What harness, agent and session together require: each layer can only tighten it."),
    ] = None
    external: Annotated[
        tuple[External, ...],
        Meta(description="Where text from outside in the session came from: the first sources."),
    ] = ()
