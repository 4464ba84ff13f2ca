"""`agent_instructions`.

Adds AGENTS.md from the session's files to the prompt, read anew before each model call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from perdure.app.context import Services
from perdure.app.session_files import read_beginnings
from perdure.capabilities.port import Capability, Discovered, DiscoveryContext, schema
from perdure.domain.errors import InvalidInput
from perdure.domain.markup import quoted
from perdure.domain.paths import MAX_PATH, MOUNT, clean_path

FILES = ("AGENTS.md",)
"""The name that most coding agents agree on."""

MAX_FILES = 10
MAX_SHOWN = 32 * 1024
"""Characters of all files together: about 8,000 tokens, which every model call pays for."""
READ = 128 * 1024
"""Bytes read from each file. More than MAX_SHOWN, because redaction replaces secrets by shorter marks."""

_INTRODUCTION = (
    "Instructions from the session's files. The user's messages take precedence over them. A folder may have "
    "its own file of this kind: read it before you work in that folder."
)
_TAG = re.compile(r"<(?=[\s/]{0,20}instructions\b)", re.IGNORECASE)


def agent_instructions(services: Services) -> Capability:
    """Create the capability, bound to the services that it reads the files with."""
    return Capability(
        id="agent_instructions",
        name="Instructions from files",
        description=(
            "Adds AGENTS.md from the session's files to the prompt, read anew before each model call."
        ),
        category="files",
        dependencies=("session_file_system",),
        config_schema=schema(
            {
                "files": {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": MAX_PATH},
                    "maxItems": MAX_FILES,
                    "default": list(FILES),
                    "description": (
                        "Paths to look for, relative to the root. The files that exist are shown in this "
                        "order."
                    ),
                }
            }
        ),
        discover=partial(_discover, services),
        instructions=lambda config: tuple(path for paths in _paths_of(config) for path in paths),
        reads_database=True,
    )


def _paths_of(config: Any) -> list[tuple[str, ...]]:
    return list(_candidate_paths((config or {}).get("files", FILES)))


async def _discover(services: Services, config: Any, context: DiscoveryContext) -> Discovered:
    candidates = _paths_of(config)
    if not candidates:
        return Discovered()
    every_path = [path for paths in candidates for path in paths]
    files = await read_beginnings(services, context, context.session_id, every_path, READ)
    sections: list[str] = []
    seen: set[tuple[int, bytes]] = set()
    room = MAX_SHOWN
    for path in [path for paths in candidates for path in [p for p in paths if p in files][:1]]:
        if files[path] in seen:
            continue  # the same instructions under another name
        seen.add(files[path])
        size, data = files[path]
        text = _truncate(context.redactor.text(data.decode(errors="ignore")), size > len(data), path, room)
        room = max(0, room - len(text))
        sections.append(f"<instructions file={quoted(path)}>\n{text}\n</instructions>")
    return Discovered("\n\n".join([_INTRODUCTION, *sections])) if sections else Discovered()


def _candidate_paths(names: Iterable[str]) -> Iterable[tuple[str, ...]]:
    """The paths of each file. `/workspace` is another name of the root, as for the file tools."""
    seen: set[str] = set()
    for name in names:
        try:
            path = clean_path(name)
        except InvalidInput:
            continue  # no file can have this path
        path = path.removeprefix(MOUNT) if path.startswith(f"{MOUNT}/") else path
        if path != "/" and path not in seen:
            seen.add(path)
            yield path, f"{MOUNT}{path}"


def _truncate(text: str, more: bool, path: str, room: int) -> str:
    """Cut the text to whole lines that fit into `room` characters, with a note on how to read the rest.

    Args:
        more: whether the file holds more than `text`.
    """
    text = text.rstrip()
    if len(text) > room or more:
        head = text[:room]
        head = head[: head.rfind("\n") + 1] or head
        lines = head.count("\n") + 1
        text = (
            f"{head.rstrip()}\n[... truncated: read the rest of {path} with read_file, from offset "
            f"{lines} ...]"
        )
    return _TAG.sub("&lt;", text)
