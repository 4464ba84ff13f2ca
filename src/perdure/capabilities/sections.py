"""The sections of a system prompt: their sources, and the text that the model receives."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from perdure.capabilities.port import Capability
from perdure.domain.markup import quoted

LayerKind = Literal["harness", "agent", "session"]
SourceKind = Literal["capability", "harness", "agent", "session"]

NOT_READ = "(read from the session before each model call)"
"""What a preview shows for text that exists only in a session."""

_TAGS = re.compile(r"<(?=[\s/]{0,20}(?:capability|harness|agent|session)\b)", re.IGNORECASE)


class Section(Struct, frozen=True):
    """A piece of the system prompt.

    Attributes:
        kind, source: where it comes from: a capability's id, or a layer's name.
        label: the source's name for people.
        text: the text in the prompt; empty if discovery has not run or has found nothing.
        discovered: whether the text comes from discovery.
    """

    kind: SourceKind
    source: str
    label: str
    text: str
    discovered: bool = False


def capability_section(capability: Capability, prompt: str) -> Section:
    """The section with a capability's own prompt, which depends only on its configuration."""
    text = _tagged("capability", prompt, id=capability.id)
    return Section("capability", capability.id, capability.name, text)


def discovered_section(capability: Capability, prompt: str) -> Section:
    """The section with a capability's discovered prompt.

    The text may come from files, so tags in it are escaped: it cannot end its section or begin another one.
    """
    prompt = prompt.strip()
    text = _tagged("capability", _TAGS.sub("&lt;", prompt), id=capability.id) if prompt else ""
    return Section("capability", capability.id, capability.name, text, discovered=True)


def note_section(identifier: str, label: str, prompt: str) -> Section:
    """The section with the server's own note for a capability. It may quote names, so tags are escaped."""
    text = _tagged("capability", _TAGS.sub("&lt;", prompt), id=identifier)
    return Section("capability", identifier, label, text)


def layer_section(kind: LayerKind, name: str | None, prompt: str) -> Section:
    """The section of a harness, an agent or a session. A layer that is not stored yet has no name."""
    attributes = {} if name is None else {"name": name}
    label = f"{kind.capitalize()} {name}" if name else kind.capitalize()
    return Section(kind, name or kind, label, _tagged(kind, prompt, **attributes))


def system_prompt(sections: Iterable[Section]) -> str:
    """Join the sections to one text."""
    return "\n\n".join(section.text for section in sections if section.text)


def preview_prompt(sections: Iterable[Section]) -> str:
    """Join the sections to one text for a preview, with `NOT_READ` in place of discovered text."""
    texts = (
        _tagged("capability", NOT_READ, id=section.source) if section.discovered else section.text
        for section in sections
    )
    return "\n\n".join(text for text in texts if text)


def _tagged(tag: str, text: str, **attributes: str) -> str:
    named = "".join(f" {key}={quoted(value)}" for key, value in attributes.items())
    return f"<{tag}{named}>\n{text.strip()}\n</{tag}>"
