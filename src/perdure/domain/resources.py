"""What agents and harnesses have in common: names, status, statistics, and who may change them."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.accounts import RANK, Caller, UserRole, require
from perdure.domain.errors import InvalidInput, TooLarge
from perdure.domain.sessions import InitialFile
from perdure.domain.times import Timestamp

LifeStatus = Literal["active", "archived", "deleted"]

MAX_NAME = 64
MAX_CONFIG = 1_000_000
"""Maximum bytes of an agent's or a harness's configuration as JSON, files included: every version keeps a
whole copy."""

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_NAME,
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$(?!\n)",
        examples=["support-desk"],
    ),
]
"""A name in URLs (wire contract): lower-case words with hyphens, unique in the organization."""
AnyName = Annotated[str, Meta(max_length=MAX_NAME)]
DisplayName = Annotated[str, Meta(max_length=200)]
Description = Annotated[str, Meta(max_length=4000)]
Files = Annotated[tuple[InitialFile, ...], Meta(max_length=100)]

RESERVED_NAMES = frozenset({"analyze", "check-name", "config", "import", "preview"})
"""Words that the API's paths use in the place of a name."""

MANAGERS: dict[str, UserRole] = {
    "agent": "member",
    "harness": "admin",
    "mcp_server": "admin",
    "skill": "member",
}
"""The minimum role to create, change and archive. Members may not change harnesses, because many agents
depend on one harness, nor MCP servers, which hold credentials that others use."""


class NameCheck(Struct, frozen=True):
    """Whether a name is available."""

    available: Annotated[bool, Meta(description="Whether the name is free.", examples=[True])]


class ResourceConfig(Struct, frozen=True):
    """What the caller's role allows, by policy."""

    policies: Annotated[
        dict[str, bool],
        Meta(
            description=(
                "What the caller may do. `agent.manage`, `harness.manage`: create, change and archive them."
            ),
            examples=[{"agent.manage": True}],
        ),
    ]


class ResourceStats(Struct, frozen=True, omit_defaults=True):
    """The totals of an agent's or a harness's sessions, without deleted ones."""

    session_count: Annotated[int, Meta(description="The number of sessions.", examples=[3])]
    started_session_count: Annotated[
        int, Meta(description="The number of sessions that have had no turn yet.", examples=[1])
    ]
    active_session_count: Annotated[
        int, Meta(description="The number of sessions in which a turn is running.", examples=[0])
    ]
    idle_session_count: Annotated[
        int, Meta(description="The number of sessions that wait for a message.", examples=[2])
    ]
    waiting_for_tool_results_session_count: Annotated[
        int, Meta(description="The number of sessions that wait for a client.", examples=[0])
    ]
    execution_count: Annotated[int, Meta(description="The number of turns that started.", examples=[7])]
    total_input_tokens: Annotated[
        int, Meta(description="The number of input tokens, including cached ones.", examples=[8120])
    ]
    total_output_tokens: Annotated[int, Meta(description="The number of output tokens.", examples=[340])]
    total_cache_read_tokens: Annotated[
        int, Meta(description="The number of input tokens read from the vendors' caches.", examples=[4096])
    ]
    total_cache_creation_tokens: Annotated[
        int, Meta(description="The number of input tokens written to the vendors' caches.", examples=[0])
    ]
    total_session_duration_ms: Annotated[
        int,
        Meta(
            description="The sum of the times from first turn to last change of a session, in milliseconds.",
            examples=[90500],
        ),
    ]
    total_cost_usd: Annotated[
        float | UnsetType,
        Meta(
            description="The cost in US dollars: the actual cost where it is known, otherwise the estimate."
            " Absent if no cost is known.",
            examples=[0.0121],
        ),
    ] = UNSET
    total_estimated_cost_usd: Annotated[
        float | UnsetType,
        Meta(
            description="The estimated cost in US dollars, where the model's price is known, else absent.",
            examples=[0.0121],
        ),
    ] = UNSET
    total_actual_cost_usd: Annotated[
        float | UnsetType,
        Meta(description="The cost in US dollars that the vendors reported. Absent if none did."),
    ] = UNSET
    avg_session_duration_ms: Annotated[
        int | None,
        Meta(
            description="The average of that time over the sessions that had a turn, in milliseconds.",
            examples=[45250],
        ),
    ] = None
    first_session_at: Annotated[
        Timestamp | None,
        Meta(description="When the first session was created.", examples=["2026-03-14T09:26:53.589793Z"]),
    ] = None
    last_session_at: Annotated[
        Timestamp | None,
        Meta(description="When the last session was created.", examples=["2026-03-14T09:26:54.731204Z"]),
    ] = None
    last_execution_at: Annotated[
        Timestamp | None,
        Meta(description="When the last turn started.", examples=["2026-03-14T09:26:54.731204Z"]),
    ] = None


def policies_of(role: UserRole, kind: str) -> ResourceConfig:
    """Return what a role may do with resources of a kind (`agent`, `harness`)."""
    return ResourceConfig({f"{kind}.manage": RANK[role] >= RANK[MANAGERS[kind]]})


def require_manager(caller: Caller, kind: str) -> None:
    """Require that the caller may change resources of this kind. Raises Forbidden."""
    require(caller, MANAGERS[kind])


def is_reserved(name: str) -> bool:
    """Whether the API's paths use the name."""
    return name in RESERVED_NAMES


def check_free_word(name: str) -> str:
    """Return the name. Raises InvalidInput if it is reserved."""
    if is_reserved(name):
        raise InvalidInput(
            f"`name`: {name!r} is reserved; choose another name", code="reserved_name", field="name"
        )
    return name


def check_size(config: bytes | str) -> None:
    """Check that the configuration is not larger than `MAX_CONFIG`. Raises TooLarge."""
    size = len(config.encode() if isinstance(config, str) else config)
    if size > MAX_CONFIG:
        raise TooLarge(
            f"the configuration takes {size} bytes as JSON, including files; the maximum is {MAX_CONFIG}"
        )


_COPY = re.compile(r"-copy(-[0-9]+)?$")


def copy_stem(name: str) -> str:
    """Return the beginning that the names of all copies of this name share."""
    return _COPY.sub("", name)[:40].rstrip("-")


def copy_name(name: str, taken: Container[str]) -> str:
    """Find an available name for a copy: `name-copy`, `name-copy-2` ..."""
    base = _COPY.sub("", name)
    number = 1
    while True:
        ending = "-copy" if number == 1 else f"-copy-{number}"
        candidate = base[: MAX_NAME - len(ending)].rstrip("-") + ending
        if candidate not in taken:
            return candidate
        number += 1
