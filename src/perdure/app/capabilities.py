"""The capabilities of this server."""

from __future__ import annotations

from perdure.app.context import App
from perdure.capabilities.port import Capability
from perdure.domain.capabilities import CapabilityInfo
from perdure.domain.errors import NotFound
from perdure.domain.paging import AllowedAction, Page


def page_of_capabilities(app: App, search: str | None, offset: int, limit: int) -> Page[CapabilityInfo]:
    """List a page of capabilities, sorted by id.

    Args:
        search: a text that the id, the name or the description contains.
    """
    text = (search or "").lower()
    matches = [
        each for each in app.registry.all() if text in f"{each.id}\n{each.name}\n{each.description}".lower()
    ]
    return Page(tuple(map(to_capability, matches[offset : offset + limit])), len(matches), offset, limit)


def read_capability(app: App, ref: str) -> CapabilityInfo:
    """Read a capability, by id or alias. Raises NotFound."""
    capability = app.registry.get(ref)
    if capability is None:
        raise NotFound("capability")
    return to_capability(capability)


def to_capability(capability: Capability) -> CapabilityInfo:
    """Convert a capability to the resource that clients see, with the tools of its default configuration."""
    url = f"/v1/capabilities/{capability.id}"
    tools = tuple(
        {
            "name": tool.name,
            "display_name": tool.display_name,
            "description": tool.description,
            "parameters": tool.parameters,
        }
        for tool in capability.tools(None)
    )
    return CapabilityInfo(
        id=capability.id,
        name=capability.name,
        description=capability.description,
        status="available",
        self_url=url,
        view_url=url,
        ui_link=url,
        features=capability.features,
        dependencies=capability.dependencies,
        category=capability.category,
        aliases=capability.aliases,
        config_schema=capability.config_schema,
        system_prompt=capability.prompt(None),
        tool_definitions=tools,
        allowed_actions=(AllowedAction("self", "GET", url, "get_capability"),),
    )
