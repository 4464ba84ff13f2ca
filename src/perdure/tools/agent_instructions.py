"""`agent_instructions`.

AGENTS.md of the session's files stands in the prompt, as it is at each model call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any
from xml.sax.saxutils import quoteattr

from perdure.app.context import Services
from perdure.app.session_files import read_beginnings
from perdure.capabilities.port import Capability, Discovered, DiscoveryContext, schema
from perdure.domain.errors import InvalidInput
from perdure.domain.paths import MAX_PATH, MOUNT, clean_path

FILES = ("AGENTS.md",)
"""The name that most coding agents agree on."""

MAX_FILES = 10
MAX_SHOWN = 32 * 1024
"""Characters of all files together: some 8,000 tokens, which every model call pays for."""
READ = 128 * 1024
"""Bytes read of a file. That it is more than what is shown leaves room for secrets, whose marks are shorter
than they are."""

_INTRODUCTION = (
    "Instructions from the session's files. What the user says comes before them. A folder may have such "
    "a file of its own: read it "
    "before you work in there."
)
_TAG = re.compile(r"<(?=[\s/]{0,20}instructions\b)", re.IGNORECASE)


def agent_instructions(services: Services) -> Capability:
    """The capability, bound to the services that it reads the files with."""
    return Capability(
        id="agent_instructions",
        name="Instructions from files",
        description="Puts AGENTS.md of the session's files into the prompt, as it is at each model call.",
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
                        "Files to look for, from the top; those that are there are shown in this order."
                    ),
                }
            }
        ),
        discover=partial(_discover, services),
    )


async def _discover(services: Services, config: Any, context: DiscoveryContext) -> Discovered:
    wanted = list(_places((config or {}).get("files", FILES)))
    if not wanted:
        return Discovered()
    every = [path for places in wanted for path in places]
    found = await read_beginnings(services, context, context.session_id, every, READ)
    shown: list[str] = []
    seen: set[tuple[int, bytes]] = set()
    room = MAX_SHOWN
    for path in [path for places in wanted for path in [each for each in places if each in found][:1]]:
        if found[path] in seen:
            continue  # the same instructions under another name
        seen.add(found[path])
        size, data = found[path]
        text = _shown(context.redactor.text(data.decode(errors="ignore")), size > len(data), path, room)
        room = max(0, room - len(text))
        shown.append(f"<instructions file={quoteattr(path)}>\n{text}\n</instructions>")
    return Discovered("\n\n".join([_INTRODUCTION, *shown])) if shown else Discovered()


def _places(names: Iterable[str]) -> Iterable[tuple[str, ...]]:
    """Where each file may be. `/workspace` is another name of the top, as for the file tools."""
    seen: set[str] = set()
    for name in names:
        try:
            path = clean_path(name)
        except InvalidInput:
            continue  # nothing can be there
        path = path.removeprefix(MOUNT) if path.startswith(f"{MOUNT}/") else path
        if path != "/" and path not in seen:
            seen.add(path)
            yield path, f"{MOUNT}{path}"


def _shown(text: str, more: bool, path: str, room: int) -> str:
    """The text, or whole lines of it as far as there is room, and how to read on."""
    text = text.rstrip()
    if len(text) > room or more:
        kept = text[:room]
        kept = kept[: kept.rfind("\n") + 1] or kept
        lines = kept.count("\n") + 1
        text = (
            f"{kept.rstrip()}\n[... this is not all of it: read on with read_file, {path} from offset "
            f"{lines} ...]"
        )
    return _TAG.sub("&lt;", text)
