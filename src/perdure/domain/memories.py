"""Memories: stores of versioned text files that several sessions share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.files import Encoding, FileLimits
from perdure.domain.ids import AgentId, MemoryId, MemoryVersionId, OrgId, SessionId, UserId
from perdure.domain.times import ArchivedAt, CreatedAt, DeletedAt, Timestamp, UpdatedAt

ROOT = "/memories"
"""The folder of a session's files in which its memories are mounted."""

MAX_MEMORIES = 10_000
"""Memories of an organization, archived ones and those of its agents and users included."""
MAX_FILES = 1_000
"""Files and folders of a memory."""
LIMITS = FileLimits(file=100 * 1024, workspace=10 * 1024 * 1024)
"""Bytes of one file, and of all files of a memory."""
MAX_VERSIONS = 1_000
"""Versions of the file at one path."""
MAX_ALL_VERSIONS = 100_000
"""Versions of all paths of a memory together: those of deletions and of empty files cost no bytes."""
MAX_HISTORY = 256 * 1024 * 1024
"""Bytes of all versions of a memory together. Redacted ones do not count."""
MAX_MOUNTS = 10
"""Memories that a configuration mounts."""

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$(?!\n)"
USER_NAME = "{{user}}"
"""Where a configuration names a memory or a scope: the memory of the session's owner."""
MountName = Annotated[str, Meta(pattern=NAME_PATTERN, examples=["notes"])]

MemoryScope = Literal["named", "agent", "user"]
MountMode = Literal["read_only", "read_write"]
MemoryStatus = Literal["active", "archived"]
Operation = Literal["create", "update", "delete"]

_NAME = Meta(
    description=(
        "The name, which is also the folder that sessions see it as: up to 64 lower-case letters, digits, "
        "`_` and `-`. Unique among the organization's active memories with the scope `named`."
    )
)
_DESCRIPTION = Meta(description="What the memory is for, in words for people.")
_PATH = Meta(description="The path in the memory.", examples=["/decisions.md"])
_HASH = Meta(
    description="The SHA-256 of the content, in hex.",
    examples=["5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"],
)
_SIZE = Meta(description="The size in bytes.", examples=[10])
_EXPECTED = Meta(
    description=(
        "The hash of the content that you read. If the file has another one by now, the answer is 412."
    )
)
_Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class MemoryMount(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A memory that a configuration mounts in the files of sessions.

    Attributes:
        name: the folder's name; without `memory_id`, also the memory's.
        memory_id: the memory, if its scope is `named`.
        scope: `named`; or the memory of that name of the session's agent or of its owner, which is made when
            it is first written.
    """

    name: MountName
    memory_id: str | None = None
    scope: MemoryScope = "named"
    mode: MountMode = "read_only"

    @property
    def folder(self) -> str:
        """The path of the folder in the session's files."""
        return f"{ROOT}/{self.name}"


def unheard(source: str) -> None:
    """Note no source."""


class Mounts(Struct, frozen=True):
    """The memories that a session's files have, and for whom.

    Attributes:
        owner_id: the session's owner, whose memories those with the scope `user` are.
        agent_id: the agent that works.
        viewer: who looks. Nobody but their user sees memories with the scope `user`.
        heard: is told of each source outside that text in a memory can come from.
        in_turn: whether a tool of the session looks, whose results its log keeps.
        session_id: the session.
    """

    mounts: tuple[MemoryMount, ...]
    owner_id: UserId
    agent_id: AgentId | None
    viewer: UserId
    heard: Callable[[str], None] = unheard
    in_turn: bool = False
    session_id: SessionId = SessionId("")

    def visible(self) -> tuple[MemoryMount, ...]:
        """The mounts that exist for whoever looks, sorted by name."""
        mine = self.viewer == self.owner_id
        found = (
            each
            for each in self.mounts
            if (each.scope != "user" or mine) and (each.scope != "agent" or self.agent_id is not None)
        )
        return tuple(sorted(found, key=lambda each: each.name))


def mounts_of(config: Any) -> tuple[MemoryMount, ...]:
    """Read the mounts of a configuration that is valid."""
    return msgspec.convert(merged(None, config)["stores"], tuple[MemoryMount, ...])


class ManualMemorySource(Struct, frozen=True, tag_field="provider", tag="manual"):
    """The memory's files are written here: they are copied from nowhere."""


class Memory(Struct, frozen=True, omit_defaults=True):
    """A store of versioned text files."""

    id: Annotated[MemoryId, Meta(description="The memory's id.")]
    name: Annotated[str, _NAME, Meta(examples=["notes"])]
    source_type: Annotated[Literal["manual"], Meta(description="Always `manual` on this server.")]
    source: Annotated[ManualMemorySource, Meta(description="Where the files come from.")]
    is_readonly: Annotated[
        bool, Meta(description="Whether its files cannot be changed now: it is archived.", examples=[False])
    ]
    sync_status: Annotated[
        Literal["not_applicable"], Meta(description="Always `not_applicable`: nothing is synchronized.")
    ]
    status: Annotated[
        MemoryStatus,
        Meta(description="`archived`: hidden from lists, read-only, and not mounted in sessions."),
    ]
    created_at: CreatedAt
    updated_at: UpdatedAt
    scope: Annotated[
        MemoryScope,
        Meta(
            description=(
                "Whose it is: `named` (the organization's), an `agent`'s, or a `user`'s, whom alone it is "
                "visible to."
            ),
            examples=["named"],
        ),
    ]
    size_bytes: Annotated[int, Meta(description="The bytes of its files.", examples=[4096])]
    file_count: Annotated[int, Meta(description="The number of its files and folders.", examples=[3])]
    history_bytes: Annotated[
        int, Meta(description="The bytes of all versions of its files that are kept.", examples=[9000])
    ]
    description: Annotated[str | None, _DESCRIPTION] = None
    agent_id: Annotated[AgentId | None, Meta(description="The agent whose memory it is.")] = None
    user_id: Annotated[UserId | None, Meta(description="The user whose memory it is.")] = None
    archived_at: ArchivedAt = None
    deleted_at: DeletedAt = None
    last_synced_at: Annotated[Timestamp | None, Meta(description="Always absent.")] = None
    last_sync_error: Annotated[str | None, Meta(description="Always absent.")] = None


class MemorySourceRequest(Struct, frozen=True):
    """A source that files would be copied from."""

    type: Annotated[
        str,
        Meta(description="`manual`. `github` and `git` are refused: this server copies files from nowhere."),
    ]


_Description = Annotated[str, Meta(max_length=2000)]


class CreateMemory(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/memories`."""

    name: Annotated[MountName, _NAME]
    description: Annotated[_Description | None, _DESCRIPTION] = None
    source: Annotated[MemorySourceRequest | None, Meta(description="Leave it out.")] = None


class UpdateMemory(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/memories/{memory_id}`. Fields that are left out stay."""

    name: Annotated[MountName | UnsetType, _NAME] = UNSET
    description: Annotated[_Description | None | UnsetType, _DESCRIPTION] = UNSET
    source: Annotated[MemorySourceRequest | None | UnsetType, Meta(description="Leave it out.")] = UNSET
    status: Annotated[MemoryStatus | UnsetType, Meta(description="`active` restores an archived memory.")] = (
        UNSET
    )


class MemoryFileInfo(Struct, frozen=True, omit_defaults=True):
    """A file or folder of a memory, without its content."""

    path: Annotated[str, _PATH]
    is_directory: Annotated[bool, Meta(description="Whether this is a folder.")]
    size_bytes: Annotated[int, _SIZE]
    created_at: CreatedAt
    updated_at: UpdatedAt
    content_hash: Annotated[str | None, _HASH] = None


class MemoryFile(Struct, frozen=True, omit_defaults=True):
    """A file of a memory with its content."""

    path: Annotated[str, _PATH]
    content: Annotated[str, Meta(description="The text.", examples=["We use UTC.\n"])]
    encoding: Annotated[Literal["text"], Meta(description="Always `text`: memories hold nothing else.")]
    size_bytes: Annotated[int, _SIZE]
    created_at: CreatedAt
    updated_at: UpdatedAt
    content_hash: Annotated[str | None, _HASH] = None


class CreateMemoryFile(Struct, frozen=True, omit_defaults=True):
    """The body that creates a file or a folder of a memory."""

    content: Annotated[str | None, Meta(description="The file's text. Default: empty.")] = None
    encoding: Annotated[Encoding | None, Meta(description="`text`, or `base64` of a text.")] = None
    is_directory: Annotated[bool | None, Meta(description="Whether to create a folder.")] = None


class UpdateMemoryFile(Struct, frozen=True, omit_defaults=True):
    """The body that changes a file of a memory."""

    content: Annotated[str | None, Meta(description="The new text. If absent, nothing changes.")] = None
    encoding: Annotated[Encoding | None, Meta(description="`text`, or `base64` of a text.")] = None
    expected_hash: Annotated[_Hash | None, _EXPECTED] = None


class MemoryGrepResult(Struct, frozen=True):
    """A file of a memory that has a match."""

    path: Annotated[str, _PATH]
    size_bytes: Annotated[int, _SIZE]


class MemoryVersion(Struct, frozen=True, omit_defaults=True):
    """What one write of a file of a memory left."""

    id: Annotated[MemoryVersionId, Meta(description="The version's id.")]
    memory_id: Annotated[MemoryId, Meta(description="The memory.")]
    path: Annotated[str, _PATH]
    version: Annotated[int, Meta(description="Counts the versions of this path, from 1.", examples=[3])]
    sequence: Annotated[int, Meta(description="Counts the versions of the memory, from 1.", examples=[12])]
    operation: Annotated[Operation, Meta(description="What the write did to the file.", examples=["update"])]
    size_bytes: Annotated[int, _SIZE]
    created_at: CreatedAt
    content_hash: Annotated[str | None, _HASH] = None
    user_id: Annotated[
        UserId | None, Meta(description="Who wrote it: the caller, or the owner of the session.")
    ] = None
    session_id: Annotated[
        SessionId | None, Meta(description="The session in which it was written, if it was.")
    ] = None
    redacted_at: Annotated[Timestamp | None, Meta(description="When its content was removed.")] = None
    redacted_by: Annotated[UserId | None, Meta(description="Who removed its content.")] = None
    content: Annotated[
        str | None, Meta(description="The text. Present only when a single version is read.")
    ] = None


class MemoryDiffLine(Struct, frozen=True, omit_defaults=True):
    """A line that stays, goes or comes; or a number of unchanged lines that are left out."""

    sign: Annotated[Literal[" ", "-", "+"], Meta(description="Unchanged, removed or added.", examples=["+"])]
    line: Annotated[str, Meta(description="The line, with its line ending.", examples=["We use UTC.\n"])]
    skipped: Annotated[int, Meta(description="Unchanged lines that are left out here.")] = 0


class MemoryDiff(Struct, frozen=True, omit_defaults=True):
    """How one version of a file differs from another one."""

    path: Annotated[str, _PATH]
    to_version: Annotated[int, Meta(description="The version that was asked for.", examples=[3])]
    lines: Annotated[tuple[MemoryDiffLine, ...], Meta(description="The changes, with some lines around.")]
    from_version: Annotated[
        int | None, Meta(description="The version it is compared with; absent for none, which is empty.")
    ] = None


class Author(Struct, frozen=True):
    """Who writes to a memory, and in which session."""

    org_id: OrgId
    user_id: UserId
    session_id: SessionId | None = None


CONFIG_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "stores": {
            "type": "array",
            "maxItems": MAX_MOUNTS,
            "description": f"The memories that the session sees as folders of {ROOT}.",
            "items": {
                "type": "object",
                "properties": {
                    "name": {
                        "type": "string",
                        "pattern": r"^([a-z0-9][a-z0-9_-]{0,63}|\{\{user\}\})$",
                        "description": (
                            "The folder's name; without `memory_id`, also the memory's. Up to 64 lower-case "
                            f"letters, digits, `_` and `-`. `{USER_NAME}` is short for the name `user` with "
                            "the scope `user`."
                        ),
                    },
                    "memory_id": {
                        "type": "string",
                        "pattern": "^memory_[0-9a-f]{32}$",
                        "description": "The memory, if its scope is `named`.",
                    },
                    "scope": {
                        "type": "string",
                        "enum": ["named", "agent", "user", USER_NAME],
                        "default": "named",
                        "description": (
                            "`named`: a memory of the organization. `agent`, `user`: the one of that name of "
                            "the session's agent, or of its owner; it is made when it is first written. "
                            f"`{USER_NAME}` is another spelling of `user`."
                        ),
                    },
                    "mode": {
                        "type": "string",
                        "enum": ["read_only", "read_write"],
                        "default": "read_only",
                        "description": "Whether the session may change it.",
                    },
                },
                "required": ["name"],
                "additionalProperties": False,
                "allOf": [
                    {
                        "if": {"properties": {"name": {"const": USER_NAME}}},
                        "then": {"properties": {"scope": {"enum": ["user", USER_NAME]}}},
                    },
                    {
                        "if": {"required": ["memory_id"]},
                        "then": {
                            "properties": {"name": {"not": {"const": USER_NAME}}, "scope": {"const": "named"}}
                        },
                    },
                ],
            },
        }
    },
    "required": ["stores"],
    "additionalProperties": False,
}
"""The JSON Schema of the capability's configuration."""


def merged(before: Any, after: Any) -> Any:
    """Merge the mounts of two layers by name, the lower layer's first.

    What one of them mounts read-only stays read-only.
    """
    stores: dict[str, Any] = {}
    for config in (before, after):
        for each in map(_spelled_out, (config or {}).get("stores", ())):
            known = stores.get(each["name"])
            tight = known is not None and known.get("mode", "read_only") == "read_only"
            stores[each["name"]] = {**each, "mode": "read_only"} if tight else each
    return {"stores": list(stores.values())}


def _spelled_out(store: dict[str, Any]) -> dict[str, Any]:
    """A mount of a configuration without `{{user}}`."""
    if store["name"] == USER_NAME:
        return {**store, "name": "user", "scope": "user"}
    return {**store, "scope": "user"} if store.get("scope") == USER_NAME else store
