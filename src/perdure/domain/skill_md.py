"""SKILL.md: the front matter that describes a skill, and the instructions below it (agentskills.io)."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.messages import JsonObject

SKILL_MD = "SKILL.md"
MAX_SKILL_MD = 48 * 1024
"""Bytes of a SKILL.md: all of it becomes one tool result."""
MAX_FRONT_MATTER = 16 * 1024
"""Characters of the front matter."""
MAX_NAME = 64
MAX_DESCRIPTION = 1024
MAX_TEXT = 500
"""Characters of `license` and `compatibility`."""
MAX_TOOLS = 2000
"""Characters of `allowed-tools`."""
MAX_METADATA = 4 * 1024
"""Bytes of `metadata` as JSON."""
MAX_METADATA_VALUES = 100
"""Values in `metadata`, at any depth: a list of skills has those of a thousand."""
MAX_UNKNOWN = 20
"""Fields that are not those of skills, and that a warning names."""
LONG_BODY = 500
"""Lines of instructions above which a skill should be split into files."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_KNOWN = frozenset(
    {
        "name", "description", "license", "compatibility", "allowed-tools", "metadata", "user-invocable",
        "disable-model-invocation",
    }
)  # fmt: skip


class SkillFacts(Struct, frozen=True, omit_defaults=True):
    """What the front matter says beyond name and description.

    Attributes:
        allowed_tools: for people: it grants nothing here.
        disable_model_invocation: whether only people may use the skill.
    """

    license: str | None = None
    compatibility: str | None = None
    allowed_tools: str | None = None
    metadata: JsonObject = {}
    user_invocable: bool = True
    disable_model_invocation: bool = False


class SkillText(Struct, frozen=True):
    """A SKILL.md that was read.

    Attributes:
        name, description: empty if they are missing or not valid.
        body: the instructions.
        errors, warnings: what is wrong, each with its line: `line 2: ...`. With errors, the skill cannot be
            used.
    """

    name: str = ""
    description: str = ""
    facts: SkillFacts = SkillFacts()
    body: str = ""
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def is_skill_name(name: str) -> bool:
    """Whether a skill can have this name: lower-case words with hyphens, up to 64 characters."""
    return len(name) <= MAX_NAME and _NAME.fullmatch(name) is not None


def read_skill(text: str) -> SkillText:
    """Read a SKILL.md. It never fails: what is wrong is in the result."""
    from perdure.domain.front_matter import read_yaml, split_front_matter  # YAML is heavy, and rarely needed

    size = len(text.encode("utf-8", "replace"))
    if size > MAX_SKILL_MD:
        return SkillText(errors=(f"{SKILL_MD} has {size} bytes: the maximum is {MAX_SKILL_MD}",))
    try:
        front, body = split_front_matter(text)
    except InvalidInput as error:
        return SkillText(errors=(f"line 1: {error.message}",))
    if front is None:
        return SkillText(errors=("line 1: the file must begin with front matter: a line of three hyphens",))
    if len(front) > MAX_FRONT_MATTER:
        return SkillText(errors=(f"line 1: the front matter has more than {MAX_FRONT_MATTER} characters",))
    try:
        # The empty line stands for the line `---`, so that errors have the file's line numbers.
        fields = read_yaml("\n" + front)
    except InvalidInput as error:
        return SkillText(errors=(error.message,))
    if not isinstance(fields, dict):
        return SkillText(errors=("line 2: the front matter must have fields, such as `name: my-skill`",))
    return _Reader(front, fields).read(body)


class _Reader:
    """Checks the fields of a front matter, and collects what is wrong with them."""

    def __init__(self, front: str, fields: dict[str, Any]) -> None:
        self._front, self._fields = front, fields
        self._errors: list[tuple[int, str]] = []
        self._warnings: list[tuple[int, str]] = []

    def read(self, body: str) -> SkillText:
        name = self._text("name", MAX_NAME, needed=True)
        if name and _NAME.fullmatch(name) is None:
            self._wrong("name", "must be lower-case letters, digits and single hyphens, such as `pdf-forms`")
            name = ""
        description = self._text("description", MAX_DESCRIPTION, needed=True)
        facts = SkillFacts(
            self._text("license", MAX_TEXT) or None,
            self._text("compatibility", MAX_TEXT) or None,
            self._tools() or None,
            self._metadata(),
            self._flag("user-invocable", default=True),
            self._flag("disable-model-invocation", default=False),
        )
        for key in sorted(self._fields.keys() - _KNOWN)[:MAX_UNKNOWN]:
            self._warnings.append((self._line(key), f"`{key[:60]}` is not a field of skills: it is ignored"))
        first = self._front.count("\n") + 3
        if not body.strip():
            self._warnings.append((first, "there are no instructions below the front matter"))
        elif body.count("\n") > LONG_BODY:
            self._warnings.append(
                (
                    first,
                    f"the instructions have more than {LONG_BODY} lines: move parts to files of their own",
                )
            )
        return SkillText(name, description, facts, body, _told(self._errors), _told(self._warnings))

    def _line(self, key: str) -> int:
        """The line of a field in the file, or that of the front matter's beginning."""
        found = re.search(rf"^[\"']?{re.escape(key)}[\"']?\s*:", self._front, re.MULTILINE)
        return 1 if found is None else self._front.count("\n", 0, found.start()) + 2

    def _wrong(self, key: str, what: str) -> None:
        self._errors.append((self._line(key), f"`{key}` {what}"))

    def _text(self, key: str, limit: int, *, needed: bool = False) -> str:
        value = self._fields.get(key)
        if value is None:
            if needed:
                self._wrong(key, "is missing")
            return ""
        if not isinstance(value, str):
            self._wrong(key, "must be a text: put it in quotes")
            return ""
        value = value.strip()
        if needed and not value:
            self._wrong(key, "must not be empty")
        if len(value) > limit:
            self._wrong(key, f"has {len(value)} characters: the maximum is {limit}")
            return ""
        return value

    def _tools(self) -> str:
        """The allowed tools as one text: some authors write a list."""
        value = self._fields.get("allowed-tools")
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            self._fields["allowed-tools"] = " ".join(value)
        return self._text("allowed-tools", MAX_TOOLS)

    def _metadata(self) -> JsonObject:
        value = self._fields.get("metadata")
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._wrong("metadata", "must have keys and values")
            return {}
        size, count = len(msgspec.json.encode(value)), _values_in(value)
        if size > MAX_METADATA:
            self._wrong("metadata", f"has {size} bytes as JSON: the maximum is {MAX_METADATA}")
            return {}
        if count > MAX_METADATA_VALUES:
            self._wrong("metadata", f"has {count} values: the maximum is {MAX_METADATA_VALUES}")
            return {}
        if not all(isinstance(each, str) for each in value.values()):
            self._warnings.append((self._line("metadata"), "`metadata` has values that are not text"))
        return value

    def _flag(self, key: str, *, default: bool) -> bool:
        value = self._fields.get(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self._wrong(key, "must be true or false")
        return default


def _values_in(value: object) -> int:
    """Count the values in a value, at any depth. Front matter is nested at most 99 levels deep."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(1 + _values_in(each) for each in inner)


def _told(found: list[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(f"line {line}: {what}" for line, what in sorted(found))
