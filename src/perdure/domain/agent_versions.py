"""Versions of agents.

Immutable snapshots of their configuration, how they are numbered, and how two of them differ.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from perdure.domain.ids import AgentId, AgentVersionId, HarnessId, ModelId
from perdure.domain.messages import JsonObject
from perdure.domain.resources import Description, DisplayName, Name
from perdure.domain.sessions import InitialFile, NetworkAccess
from perdure.domain.times import Timestamp
from perdure.domain.tools import CapabilityRef, ToolDefinition

ChangeKind = Literal["auto", "manual", "patch", "minor", "major", "import", "rollback", "fork"]
"""Why there is a version: `auto` for what a change of the agent left behind, the next four for those made on
purpose."""
PurposeKind = Literal["manual", "patch", "minor", "major"]
Summary = Annotated[str, Meta(max_length=1000)]


class AuthoredConfig(Struct, frozen=True, omit_defaults=True):
    """What was written: all of an agent that a version keeps.

    Its name and status are the agent's own, not a version's.
    """

    system_prompt: str
    harness_id: HarnessId
    display_name: str | None = None
    description: str | None = None
    default_model_id: ModelId | None = None
    tags: tuple[str, ...] = ()
    capabilities: tuple[CapabilityRef, ...] = ()
    tools: tuple[ToolDefinition, ...] = ()
    initial_files: tuple[InitialFile, ...] = ()
    max_iterations: int | None = None
    parallel_tool_calls: bool | None = None
    network_access: NetworkAccess | None = None


class ResolvedConfig(Struct, frozen=True, omit_defaults=True):
    """What it came to over its harness when the version was made.

    The prompt put together, the capabilities merged.

    Attributes:
        harnesses: their names, the topmost parent first.
        tools: their names.
    """

    system_prompt: str
    harnesses: tuple[str, ...]
    capabilities: tuple[CapabilityRef, ...]
    features: tuple[str, ...]
    tools: tuple[str, ...]
    default_model_id: ModelId | None = None
    max_iterations: int | None = None
    parallel_tool_calls: bool | None = None


class AgentVersion(Struct, frozen=True, omit_defaults=True):
    """A version, as clients see it.

    Attributes:
        version_number: 1, 2, 3 ... in the order in which they were made.
        version: the three `semver` numbers with dots.
        parent_version_id: the version that the agent was at before.
        source_version_id: the version that this one repeats: of a rollback or a fork.
        config_hash: SHA-256 of the authored configuration; equal hashes, equal configurations.
        is_published: whether it was made on purpose rather than left behind by a change.
    """

    id: AgentVersionId
    agent_id: AgentId
    version_number: int
    version: str
    semver_major: int
    semver_minor: int
    semver_patch: int
    change_kind: ChangeKind
    is_published: bool
    config_hash: str
    authored_config: AuthoredConfig
    resolved_config: ResolvedConfig
    created_at: Timestamp
    summary: str | None = None
    parent_version_id: AgentVersionId | None = None
    source_version_id: AgentVersionId | None = None
    created_by_principal_id: str | None = None


class CreateAgentVersion(Struct, frozen=True):
    """The body of `POST /v1/agents/{agent_id}/versions`.

    Keep the agent as it is now as a version of its own.
    """

    change_kind: PurposeKind | None = None
    summary: Summary | None = None


class SetDefaultAgentVersion(Struct, frozen=True):
    """The body of `POST /v1/agents/{agent_id}/versions/default`.

    Null lets new sessions follow the agent again.
    """

    version_id: str | None


class RollbackAgentVersion(Struct, frozen=True):
    """The body of `POST .../versions/{version_id}/rollback`.

    `save_version`: keep the result as a new version.
    """

    save_version: bool | None = None
    summary: Summary | None = None


class ForkAgentVersion(Struct, frozen=True):
    """The body of `POST .../versions/{version_id}/fork`: a new agent that begins as this version."""

    name: Name
    display_name: DisplayName | None = None
    description: Description | None = None


class PatchStep(Struct, frozen=True, omit_defaults=True):
    """One operation of a JSON Patch (RFC 6902); `old` shows what was there before."""

    op: Literal["add", "remove", "replace"]
    path: str
    value: Any = msgspec.UNSET
    old: Any = msgspec.UNSET


class AgentVersionDiff(Struct, frozen=True):
    """How two versions differ, as JSON Patches that turn the first into the second."""

    from_version_id: AgentVersionId
    to_version_id: AgentVersionId
    authored_diff: tuple[PatchStep, ...]
    resolved_diff: tuple[PatchStep, ...]


Semver = tuple[int, int, int]
FIRST: Semver = (1, 0, 0)


def next_semver(latest: Semver | None, kind: ChangeKind) -> Semver:
    """The number after the latest.

    `major` and `minor` say themselves what they are, everything else is a patch.
    """
    if latest is None:
        return FIRST
    major, minor, patch = latest
    if kind == "major":
        return major + 1, 0, 0
    if kind == "minor":
        return major, minor + 1, 0
    return major, minor, patch + 1


def is_published(kind: ChangeKind) -> bool:
    """Whether a version of this kind was made on purpose."""
    return kind != "auto"


def hash_of_config(config: AuthoredConfig) -> str:
    """SHA-256 of the configuration's JSON with sorted keys, in hex."""
    return hashlib.sha256(msgspec.json.encode(config, order="sorted")).hexdigest()


def diff_configs(old: Struct, new: Struct) -> tuple[PatchStep, ...]:
    """A JSON Patch that turns one configuration into another. Lists are replaced as a whole."""
    return tuple(_diff("", msgspec.to_builtins(old), msgspec.to_builtins(new)))


def _diff(path: str, old: JsonObject, new: JsonObject) -> list[PatchStep]:
    steps: list[PatchStep] = []
    for key in sorted({**old, **new}):
        where = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in new:
            steps.append(PatchStep("remove", where, old=old[key]))
        elif key not in old:
            steps.append(PatchStep("add", where, new[key]))
        elif _same(old[key], new[key]):
            continue
        elif isinstance(old[key], dict) and isinstance(new[key], dict):
            steps += _diff(where, old[key], new[key])
        else:
            steps.append(PatchStep("replace", where, new[key], old[key]))
    return steps


def _same(old: Any, new: Any) -> bool:
    # To Python True is 1 and 1 is 1.0; in JSON they are not the same.
    return msgspec.json.encode(old, order="sorted") == msgspec.json.encode(new, order="sorted")
