"""Skills that MCP servers offer: the extension `io.modelcontextprotocol/skills` (SEP-2640), read and checked.

A server lists its skills with `skills/list`. Each has the URI of its SKILL.md, its front matter, and the
digests of its files, which are resources. What a server says of its skills is text from outside.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeGuard

from msgspec import Struct

from perdure.domain.errors import ToolError
from perdure.domain.mcp_wire import Malformed, text_in
from perdure.domain.messages import JsonObject
from perdure.domain.skill_md import SKILL_MD, SkillText, is_skill_name, read_skill
from perdure.domain.texts import cut_line
from perdure.domain.visible import visible_line

EXTENSION = "io.modelcontextprotocol/skills"
MAX_SKILLS = 500
"""Skills of one server; further ones are left out."""
MAX_FILES = 512
"""Files of a skill: as the extension says."""
MAX_SIZE = 16 * 1024 * 1024
"""Bytes of a skill's files together: as the extension says."""
MAX_URI = 900
"""Characters of the URI of a SKILL.md or another file: models call skills of the same name by it."""
MAX_PATHS = 2_000
"""Characters of the paths that an error names."""
MAX_DESCRIPTION = 1_024

_END = f"/{SKILL_MD}"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class McpSkillFile(Struct, frozen=True):
    """A file of a skill: its URI, its digest (`sha256:...`) and its bytes."""

    uri: str
    digest: str
    size: int


class McpSkill(Struct, frozen=True):
    """A skill that a server lists.

    Attributes:
        uri: of its SKILL.md. Two servers may have the same.
        files: all of its files; None if they are made anew for each read, so that nothing can be compared.
        hidden: whether only people may use it.
    """

    uri: str
    name: str
    description: str
    files: tuple[McpSkillFile, ...] | None
    hidden: bool = False

    @property
    def root(self) -> str:
        """The URI of its folder, with a slash."""
        return self.uri[: -len(SKILL_MD)]

    def paths(self) -> tuple[str, ...]:
        """Its further files, relative to its folder."""
        return tuple(each.uri.removeprefix(self.root) for each in self.files or () if each.uri != self.uri)

    def file(self, uri: str) -> McpSkillFile | None:
        """What is known of a file; None if they are made anew each time. Raises ToolError: it has none."""
        if self.files is None:
            return None
        found = next((each for each in self.files if each.uri == uri), None)
        if found is None:
            some = cut_line(", ".join(self.paths()[:20]), MAX_PATHS) or "none"
            raise ToolError(f"the skill {self.name!r} has no such file. Its further files: {some}")
        return found


def skills_of(listed: Any) -> list[McpSkill]:
    """Read a page of `skills/list`, without what is not a skill. Raises Malformed: it is not a list."""
    if not isinstance(listed, list):
        raise Malformed("its `skills` is not a list")
    return [skill for each in listed[:MAX_SKILLS] if (skill := _skill(each)) is not None]


def _skill(entry: Any) -> McpSkill | None:
    if not isinstance(entry, dict):
        return None
    uri, front = entry.get("uri"), entry.get("frontmatter")
    if not _is_uri(uri) or not uri.endswith(_END) or not isinstance(front, dict):
        return None
    name, said = front.get("name"), front.get("description")
    if not isinstance(name, str) or not is_skill_name(name) or not isinstance(said, str):
        return None
    if uri[: -len(_END)].rpartition("/")[2] != name:
        return None
    known = entry.get("resources")
    files = None if known == "dynamic" else _files(known, uri)
    if known != "dynamic" and files is None:
        return None
    hidden = front.get("disable-model-invocation") is True
    return McpSkill(uri, name, text_in(said, MAX_DESCRIPTION), files, hidden)


def _files(listed: Any, main: str) -> tuple[McpSkillFile, ...] | None:
    """The files of a skill; None if the list cannot be used."""
    if not isinstance(listed, list) or len(listed) > MAX_FILES:
        return None
    files: dict[str, McpSkillFile] = {}
    for each in listed:
        if not isinstance(each, dict):
            return None
        uri, digest, size = each.get("uri"), each.get("digest"), each.get("size")
        if not _is_uri(uri) or not uri.startswith(main[: -len(SKILL_MD)]) or uri in files:
            return None
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            return None
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE:
            return None
        files[uri] = McpSkillFile(uri, digest, size)
    total = sum(each.size for each in files.values())
    return tuple(files.values()) if main in files and total <= MAX_SIZE else None


def _is_uri(value: Any) -> TypeGuard[str]:
    """Whether it is one that can stand in a line of a prompt: with a line break, it could end it."""
    return isinstance(value, str) and 1 <= len(value) <= MAX_URI and visible_line(value) == value


def labelled(server: str, skills: Sequence[McpSkill]) -> dict[str, McpSkill]:
    """The skills of a server by what models call them: `{server}:{name}`.

    Skills of the same name are called by their paths: `{server}:{path}`. A colon is in no name of other
    skills, so that a server's skill never stands for another one.

    Args:
        server: what the server is called here, which is not what it says of itself.
    """
    counted = Counter(each.name for each in skills)
    return {f"{server}:{each.name if counted[each.name] == 1 else _path(each.uri)}": each for each in skills}


def _path(uri: str) -> str:
    return uri[: -len(_END)].partition("://")[2] or uri[: -len(_END)]


def checked_file(content: Sequence[JsonObject], uri: str, known: McpSkillFile | None) -> bytes:
    """Take a file out of the result of `resources/read`, and compare it with what was listed.

    Raises:
        ToolError: it is not there, or is another one.
    """
    found = [each["resource"] for each in content if each["resource"].get("uri") == uri]
    if len(found) != 1:
        raise ToolError(f"the server did not return {uri}")
    text, blob = found[0].get("text"), found[0].get("blob")
    try:
        data = text.encode() if isinstance(text, str) else base64.b64decode(blob, validate=True)
    except (ValueError, binascii.Error, TypeError):
        raise ToolError(f"the server returned {uri} in a form that cannot be read") from None
    if known is not None and (
        len(data) != known.size or f"sha256:{hashlib.sha256(data).hexdigest()}" != known.digest
    ):
        raise ToolError(f"{uri} is not what the server has listed: it may have just changed. Try again once")
    return data


def checked_skill(skill: McpSkill, data: bytes) -> SkillText:
    """Read a SKILL.md, which must say what was listed. Raises ToolError."""
    text = read_skill(data.decode(errors="replace"))
    if text.errors:
        raise ToolError(f"the skill {skill.name!r} cannot be used: {'; '.join(text.errors)[:300]}")
    listed = (skill.name, text_in(text.description, MAX_DESCRIPTION), skill.hidden)
    if (text.name, skill.description, text.facts.disable_model_invocation) != listed:
        raise ToolError(f"the front matter of the skill {skill.name!r} is not what the server has listed")
    return text
