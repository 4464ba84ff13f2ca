"""Capabilities, as clients see them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.messages import JsonObject
from perdure.domain.paging import AllowedActions, SelfUrl, UiLink, ViewUrl

_LINK = Meta(examples=["/v1/capabilities/current_time"])


class CapabilityInfo(Struct, frozen=True, omit_defaults=True):
    """A capability that this server knows."""

    id: Annotated[str, Meta(description="The capability's id.", examples=["current_time"])]
    name: Annotated[str, Meta(description="The capability's name, for people.", examples=["Current time"])]
    description: Annotated[
        str,
        Meta(
            description="What the capability does, for people.",
            examples=["Lets the agent get the current date and time in any time zone."],
        ),
    ]
    status: Annotated[Literal["available"], Meta(description="Always `available`.")]
    self_url: Annotated[SelfUrl, _LINK]
    view_url: Annotated[ViewUrl, _LINK]
    ui_link: Annotated[UiLink, _LINK]
    features: Annotated[
        tuple[str, ...],
        Meta(description="What clients can rely on while the capability is active.", examples=[[]]),
    ]
    dependencies: Annotated[
        tuple[str, ...],
        Meta(description="The ids of capabilities that this one activates as well.", examples=[[]]),
    ]
    category: Annotated[
        str | None,
        Meta(description="The group that the capability belongs to, for display.", examples=["utility"]),
    ] = None
    aliases: Annotated[tuple[str, ...], Meta(description="Other ids of the same capability.")] = ()
    config_schema: Annotated[
        JsonObject | None, Meta(description="The JSON Schema of the capability's configuration.")
    ] = None
    system_prompt: Annotated[
        str | None, Meta(description="The instructions that the capability adds to the system prompt.")
    ] = None
    tool_definitions: Annotated[
        tuple[JsonObject, ...],
        Meta(
            description="The tools that the capability provides.",
            examples=[
                [
                    {
                        "name": "get_current_time",
                        "description": "Get the current date and time, with the day of the week.",
                        "parameters": {"type": "object", "properties": {}},
                    }
                ]
            ],
        ),
    ] = ()
    is_mcp: Annotated[bool, Meta(description="Whether the capability is an MCP server.")] = False
    is_guardrail: Annotated[bool, Meta(description="Whether the capability checks texts and tool calls.")] = (
        False
    )
    is_skill: Annotated[bool, Meta(description="Whether the capability is a registered skill.")] = False
    allowed_actions: AllowedActions = ()
