"""What agents and harnesses have in common: names, life, counts, and who may change them."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.accounts import RANK, Caller, UserRole, require
from perdure.domain.errors import InvalidInput, TooLarge
from perdure.domain.sessions import InitialFile
from perdure.domain.times import Timestamp

LifeStatus = Literal["active", "archived", "deleted"]

MAX_NAME = 64
MAX_CONFIG = 1_000_000
"""Bytes of JSON that an agent's or a harness's configuration may hold, its files included. Versions keep all
of it."""

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_NAME,
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$(?!\n)",
        examples=["support-desk"],
    ),
]
"""Addressable names (wire contract): lower-case words with hyphens, unique in the organization."""
AnyName = Annotated[str, Meta(max_length=MAX_NAME)]
DisplayName = Annotated[str, Meta(max_length=200)]
Description = Annotated[str, Meta(max_length=4000)]
Files = Annotated[tuple[InitialFile, ...], Meta(max_length=100)]

RESERVED_NAMES = frozenset({"analyze", "check-name", "config", "import", "preview"})
"""Words that stand where a name could stand in a path."""

MANAGERS: dict[str, UserRole] = {"agent": "member", "harness": "admin"}
"""The least role that makes, changes and archives. Harnesses lie under many agents, so members leave them
alone."""


class NameCheck(Struct, frozen=True):
    """Whether a name is free."""

    available: bool


class ResourceConfig(Struct, frozen=True):
    """What the caller's role allows, by policy."""

    policies: dict[str, bool]


class ResourceStats(Struct, frozen=True, omit_defaults=True):
    """What the sessions of an agent or a harness come to, deleted ones left out.

    Attributes:
        execution_count: turns that were started.
        total_session_duration_ms: from the start of each session's first turn to its last change.
        avg_session_duration_ms: over the sessions that had a turn.
        total_cost_usd: the actual cost where it is known, else the estimate.
    """

    session_count: int
    started_session_count: int
    active_session_count: int
    idle_session_count: int
    waiting_for_tool_results_session_count: int
    execution_count: int
    total_input_tokens: int
    total_output_tokens: int
    total_cache_read_tokens: int
    total_cache_creation_tokens: int
    total_cost_usd: float
    total_estimated_cost_usd: float
    total_actual_cost_usd: float
    total_session_duration_ms: int
    avg_session_duration_ms: int | None = None
    first_session_at: Timestamp | None = None
    last_session_at: Timestamp | None = None
    last_execution_at: Timestamp | None = None


def policies_of(role: UserRole, kind: str) -> ResourceConfig:
    """What a role may do with resources of a kind (`agent`, `harness`)."""
    return ResourceConfig({f"{kind}.manage": RANK[role] >= RANK[MANAGERS[kind]]})


def require_manager(caller: Caller, kind: str) -> None:
    """Accept only a caller who may change resources of this kind. Raises Forbidden."""
    require(caller, MANAGERS[kind])


def is_reserved(name: str) -> bool:
    """Whether the name is a word of the API's paths."""
    return name in RESERVED_NAMES


def check_free_word(name: str) -> str:
    """The name itself. Raises InvalidInput when it is reserved."""
    if is_reserved(name):
        raise InvalidInput(f"`name`: {name!r} is reserved", code="reserved_name", field="name")
    return name


def check_size(config: bytes | str) -> None:
    """Accept only a configuration of bearable size. Raises TooLarge."""
    size = len(config.encode() if isinstance(config, str) else config)
    if size > MAX_CONFIG:
        raise TooLarge(
            f"the configuration comes to {size} bytes of JSON; it may hold {MAX_CONFIG}, files included"
        )


_COPY = re.compile(r"-copy(-[0-9]+)?$")


def copy_stem(name: str) -> str:
    """What the names of all copies of this name begin with."""
    return _COPY.sub("", name)[:40].rstrip("-")


def copy_name(name: str, taken: Container[str]) -> str:
    """A free name for a copy: `name-copy`, `name-copy-2` ..."""
    base = _COPY.sub("", name)
    number = 1
    while True:
        ending = "-copy" if number == 1 else f"-copy-{number}"
        found = base[: MAX_NAME - len(ending)].rstrip("-") + ending
        if found not in taken:
            return found
        number += 1
