"""Capabilities, as clients see them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from perdure.domain.messages import JsonObject
from perdure.domain.paging import AllowedAction


class CapabilityInfo(Struct, frozen=True, omit_defaults=True):
    """A capability that this server knows."""

    id: str
    name: str
    description: str
    status: Literal["available"]
    self_url: str
    view_url: str
    ui_link: str
    features: tuple[str, ...]
    dependencies: tuple[str, ...]
    category: str | None = None
    aliases: tuple[str, ...] = ()
    config_schema: JsonObject | None = None
    system_prompt: str | None = None
    tool_definitions: tuple[JsonObject, ...] = ()
    allowed_actions: tuple[AllowedAction, ...] = ()
