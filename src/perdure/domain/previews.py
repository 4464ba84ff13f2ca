"""What layers would come to, and what is worth a second look in them, before anything is stored."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from perdure.domain.messages import JsonObject
from perdure.domain.resources import AnyName
from perdure.domain.sessions import Prompt
from perdure.domain.tools import Capabilities, Tools

Category = Literal["structure", "completeness", "effectiveness", "safety", "cost"]
Severity = Literal["warning", "info", "suggestion"]


class PreviewAgent(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/agents/preview` and `/analyze`.

    Without a harness the agent is looked at by itself.
    """

    system_prompt: Prompt
    capabilities: Capabilities = ()
    tools: Tools = ()
    harness_id: str | None = None
    harness_name: AnyName | None = None


class PreviewHarness(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/harnesses/preview`."""

    system_prompt: Prompt | None = None
    capabilities: Capabilities = ()
    parent_harness_id: str | None = None


class FindingLocation(Struct, frozen=True, omit_defaults=True):
    """A field and, in a text, a span of it: offsets in bytes of its UTF-8 form, the end exclusive."""

    field: str
    start: int | None = None
    end: int | None = None


class Finding(Struct, frozen=True, omit_defaults=True):
    """One remark about an agent.

    Findings advise; `structure` ones name what would be refused when it is stored.
    """

    rule_id: str
    category: Category
    severity: Severity
    message: str
    source: Literal["builtin"]
    fix: str | None = None
    location: FindingLocation | None = None


class Analysis(Struct, frozen=True):
    """What was found."""

    findings: tuple[Finding, ...]


class AgentPreview(Struct, frozen=True):
    """What the model would get of an agent, and what was found."""

    system_prompt: str
    tools: tuple[JsonObject, ...]
    findings: tuple[Finding, ...]


class HarnessPreview(Struct, frozen=True):
    """What the model would get of a harness."""

    system_prompt: str
    tools: tuple[JsonObject, ...]
