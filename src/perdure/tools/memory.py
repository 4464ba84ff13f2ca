"""`memory`: stores of text files that several sessions share, as folders of the session's files."""

from __future__ import annotations

from typing import Any

from perdure.capabilities.port import Capability
from perdure.domain.memories import CONFIG_SCHEMA, ROOT, merged, mounts_of


def _prompt(config: Any) -> str | None:
    mounts = mounts_of(config)
    if not mounts:
        return None
    about = {
        "named": "shared by sessions of the organization",
        "agent": "shared by all of your sessions",
        "user": "of the user, for all of their sessions with it",
    }
    lines = [
        f"* {each.folder}: {about[each.scope]}; "
        f"{'you can change it' if each.mode == 'read_write' else 'read-only'}"
        for each in sorted(mounts, key=lambda each: each.name)
    ]
    begin = (
        f"Folders of {ROOT} outlast this session. They hold text files that other sessions read, and may "
        "change at any time:"
    )
    end = "To replace a file there, read it and give its hash as expected_hash."
    return "\n".join([begin, *lines, end])


MEMORY = Capability(
    id="memory",
    name="Memory",
    description=(
        "Mounts stores of versioned text files, which several sessions share, as folders of the session's "
        "files: of the organization, the agent or the user."
    ),
    category="files",
    features=("memory",),
    dependencies=("session_file_system",),
    config_schema=CONFIG_SCHEMA,
    prompt=_prompt,
    mounts=mounts_of,
    merge=merged,
)
