"""Versions of agents: immutable snapshots of their configuration, with version numbers and diffs."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from perdure.domain.ids import (
    AgentId,
    AgentVersionId,
    AgentVersionIdText,
    HarnessId,
    ModelId,
    PrincipalIdText,
)
from perdure.domain.layer_fields import (
    CAPABILITIES,
    DEFAULT_MODEL_ID,
    DESCRIPTION,
    DISPLAY_NAME,
    EXPOSE_MCP,
    FALLBACK_MODELS,
    HARNESS_ID,
    INITIAL_FILES,
    MAX_ITERATIONS,
    MCP_SERVERS,
    NAME,
    NETWORK_ACCESS,
    OUTPUT_SCHEMA,
    PARALLEL_TOOL_CALLS,
    SYSTEM_PROMPT,
    TAGS,
    TOOLS,
    VARIABLES,
)
from perdure.domain.mcp_servers import MCP_NAMES, InlineMcpServer
from perdure.domain.messages import JsonObject
from perdure.domain.outputs import OutputSchema
from perdure.domain.resources import Description, DisplayName, Name
from perdure.domain.sessions import InitialFile, NetworkAccess
from perdure.domain.times import CreatedAt
from perdure.domain.tools import CapabilityRef, ToolDefinition
from perdure.domain.variables import Variable

ChangeKind = Literal["auto", "manual", "patch", "minor", "major", "import", "rollback", "fork"]
"""Why a version was created. `auto`: automatically, by a change of the agent. `manual`, `patch`, `minor` and
`major`: on request."""
PurposeKind = Literal["manual", "patch", "minor", "major"]
Summary = Annotated[str, Meta(max_length=1000)]


_SUMMARY = Meta(description="What is new in this version.", examples=["Knows about refunds"])


class AuthoredConfig(Struct, frozen=True, omit_defaults=True, rename=MCP_NAMES):
    """An agent's configuration as it was written. Name and status are not part of a version."""

    system_prompt: Annotated[str, SYSTEM_PROMPT, Meta(examples=["You answer questions about orders."])]
    harness_id: Annotated[HarnessId, HARNESS_ID]
    display_name: Annotated[str | None, DISPLAY_NAME] = None
    description: Annotated[str | None, DESCRIPTION] = None
    default_model_id: Annotated[ModelId | None, DEFAULT_MODEL_ID] = None
    tags: Annotated[tuple[str, ...], TAGS] = ()
    capabilities: Annotated[tuple[CapabilityRef, ...], CAPABILITIES] = ()
    tools: Annotated[tuple[ToolDefinition, ...], TOOLS] = ()
    initial_files: Annotated[tuple[InitialFile, ...], INITIAL_FILES] = ()
    max_iterations: Annotated[int | None, MAX_ITERATIONS] = None
    parallel_tool_calls: Annotated[bool | None, PARALLEL_TOOL_CALLS] = None
    network_access: Annotated[NetworkAccess | None, NETWORK_ACCESS] = None
    mcp_servers: Annotated[dict[str, InlineMcpServer], MCP_SERVERS] = {}
    expose_mcp: Annotated[bool, EXPOSE_MCP] = False
    output_schema: Annotated[OutputSchema | None, OUTPUT_SCHEMA] = None
    variables: Annotated[dict[str, Variable] | None, VARIABLES] = None
    fallback_models: Annotated[tuple[str, ...], FALLBACK_MODELS] = ()


class ResolvedConfig(Struct, frozen=True, omit_defaults=True):
    """The configuration that resulted from the agent and its harness when the version was created."""

    system_prompt: Annotated[
        str,
        Meta(
            description="The complete system prompt, assembled from all layers.",
            examples=["<agent>\nYou answer questions about orders.\n</agent>"],
        ),
    ]
    harnesses: Annotated[
        tuple[str, ...],
        Meta(
            description="The names of the harness and its parents, topmost parent first.", examples=[["base"]]
        ),
    ]
    capabilities: Annotated[
        tuple[CapabilityRef, ...],
        Meta(description="All active capabilities, including dependencies.", examples=[[]]),
    ]
    features: Annotated[
        tuple[str, ...], Meta(description="What clients can rely on, such as `file_system`.", examples=[[]])
    ]
    tools: Annotated[tuple[str, ...], Meta(description="The names of all tools.", examples=[[]])]
    default_model_id: Annotated[ModelId | None, DEFAULT_MODEL_ID] = None
    max_iterations: Annotated[int | None, MAX_ITERATIONS] = None
    parallel_tool_calls: Annotated[bool | None, PARALLEL_TOOL_CALLS] = None


class AgentVersion(Struct, frozen=True, omit_defaults=True):
    """A version of an agent."""

    id: Annotated[AgentVersionId, Meta(description="The version's id.")]
    agent_id: Annotated[AgentId, Meta(description="The agent that this is a version of.")]
    version_number: Annotated[
        int, Meta(description="The version's number: 1, 2, 3 and so on, in order of creation.", examples=[4])
    ]
    version: Annotated[
        str, Meta(description="The semantic version: `major.minor.patch`.", examples=["1.1.0"])
    ]
    semver_major: Annotated[int, Meta(description="The major number of `version`.", examples=[1])]
    semver_minor: Annotated[int, Meta(description="The minor number of `version`.", examples=[1])]
    semver_patch: Annotated[int, Meta(description="The patch number of `version`.", examples=[0])]
    change_kind: Annotated[
        ChangeKind,
        Meta(
            description="Why the version was created. `auto`: automatically, by a change of the agent.",
            examples=["minor"],
        ),
    ]
    is_published: Annotated[
        bool,
        Meta(
            description=("Whether the version was created on request, not automatically by a change."),
            examples=[True],
        ),
    ]
    config_hash: Annotated[
        str,
        Meta(
            description=(
                "The SHA-256 of the authored configuration, in hex. Equal hashes: equal configurations."
            ),
            examples=["5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"],
        ),
    ]
    authored_config: Annotated[
        AuthoredConfig, Meta(description="The agent's configuration as it was written.")
    ]
    resolved_config: Annotated[
        ResolvedConfig,
        Meta(
            description=(
                "The configuration that resulted from merging "
                "it with its harness when the version was created."
            )
        ),
    ]
    created_at: CreatedAt
    summary: Annotated[str | None, _SUMMARY] = None
    parent_version_id: Annotated[
        AgentVersionId | None,
        Meta(
            description="The version that the agent had before.",
            examples=["agentver_0192f0c1b2a37b5c8d4e5f60718293a3"],
        ),
    ] = None
    source_version_id: Annotated[
        AgentVersionId | None,
        Meta(description="The version that this one repeats, after a rollback or a fork."),
    ] = None
    created_by_principal_id: Annotated[
        PrincipalIdText | None,
        Meta(
            description="The principal that created the version.",
            examples=["principal_0192f0c1b2a37b5c8d4e5f60718293a4"],
        ),
    ] = None


class CreateAgentVersion(Struct, frozen=True):
    """The body of `POST /v1/agents/{agent_id}/versions`, which saves the agent as a new version."""

    change_kind: Annotated[
        PurposeKind | None, Meta(description="Which part of the semantic version to increase.")
    ] = None
    summary: Annotated[Summary | None, _SUMMARY] = None


class SetDefaultAgentVersion(Struct, frozen=True):
    """The body of `POST /v1/agents/{agent_id}/versions/default`."""

    version_id: Annotated[
        AgentVersionIdText | None,
        Meta(
            description="The version that new sessions run; `null` for none, so that they follow the agent."
        ),
    ]


class RollbackAgentVersion(Struct, frozen=True):
    """The body of `POST .../versions/{version_id}/rollback`."""

    save_version: Annotated[
        bool | None, Meta(description="Whether to save the result as a new version. Default: `true`.")
    ] = None
    summary: Annotated[Summary | None, Meta(description="Why the agent is rolled back.")] = None


class ForkAgentVersion(Struct, frozen=True):
    """The body of `POST .../versions/{version_id}/fork`, which creates an agent from this version."""

    name: Annotated[Name, NAME]
    display_name: Annotated[DisplayName | None, DISPLAY_NAME] = None
    description: Annotated[Description | None, DESCRIPTION] = None


class PatchStep(Struct, frozen=True, omit_defaults=True):
    """One operation of a JSON Patch (RFC 6902), with the previous value in `old`."""

    op: Annotated[
        Literal["add", "remove", "replace"],
        Meta(description="What is done at the path.", examples=["replace"]),
    ]
    path: Annotated[
        str, Meta(description="The place that changes, as a JSON Pointer.", examples=["/system_prompt"])
    ]
    value: Annotated[
        Any, Meta(description="The value afterwards.", examples=["You answer questions about orders."])
    ] = msgspec.UNSET
    old: Annotated[Any, Meta(description="The value before.", examples=["You answer questions."])] = (
        msgspec.UNSET
    )


class AgentVersionDiff(Struct, frozen=True):
    """The difference between two versions: JSON Patches that turn the first into the second."""

    from_version_id: Annotated[
        AgentVersionId,
        Meta(
            description="The version that the diff starts from.",
            examples=["agentver_0192f0c1b2a37b5c8d4e5f60718293a3"],
        ),
    ]
    to_version_id: Annotated[AgentVersionId, Meta(description="The version that the diff leads to.")]
    authored_diff: Annotated[
        tuple[PatchStep, ...], Meta(description="The changes in the authored configuration.")
    ]
    resolved_diff: Annotated[
        tuple[PatchStep, ...], Meta(description="The changes in the resolved configuration.", examples=[[]])
    ]


Semver = tuple[int, int, int]
FIRST: Semver = (1, 0, 0)


def next_semver(latest: Semver | None, kind: ChangeKind) -> Semver:
    """Return the semantic version after the latest: kinds other than `major` and `minor` count as patches."""
    if latest is None:
        return FIRST
    major, minor, patch = latest
    if kind == "major":
        return major + 1, 0, 0
    if kind == "minor":
        return major, minor + 1, 0
    return major, minor, patch + 1


def is_published(kind: ChangeKind) -> bool:
    """Whether a version of this kind was created on request."""
    return kind != "auto"


def hash_of_config(config: AuthoredConfig) -> str:
    """Return the SHA-256 of the configuration's JSON with sorted keys, in hex."""
    return hashlib.sha256(msgspec.json.encode(config, order="sorted")).hexdigest()


def diff_configs(old: Struct, new: Struct) -> tuple[PatchStep, ...]:
    """Return a JSON Patch that turns one configuration into another. It replaces lists as a whole."""
    return diff_objects(msgspec.to_builtins(old), msgspec.to_builtins(new))


def diff_objects(old: JsonObject, new: JsonObject) -> tuple[PatchStep, ...]:
    """Return a JSON Patch that turns one object into another. It replaces lists as a whole."""
    return tuple(_diff("", old, new))


def _diff(path: str, old: JsonObject, new: JsonObject) -> list[PatchStep]:
    steps: list[PatchStep] = []
    for key in sorted({**old, **new}):
        pointer = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in new:
            steps.append(PatchStep("remove", pointer, old=old[key]))
        elif key not in old:
            steps.append(PatchStep("add", pointer, new[key]))
        elif _same(old[key], new[key]):
            continue
        elif isinstance(old[key], dict) and isinstance(new[key], dict):
            steps += _diff(pointer, old[key], new[key])
        else:
            steps.append(PatchStep("replace", pointer, new[key], old[key]))
    return steps


def _same(old: Any, new: Any) -> bool:
    # Python's == treats True, 1 and 1.0 as equal; in JSON they differ.
    return msgspec.json.encode(old, order="sorted") == msgspec.json.encode(new, order="sorted")
