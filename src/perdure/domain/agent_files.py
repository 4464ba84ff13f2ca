"""Agents as files: Markdown with the prompt as the body and all other fields as YAML front matter."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.agents import CreateAgent
from perdure.domain.errors import InvalidInput
from perdure.domain.resources import MAX_NAME

MAX_FILE = 4 * 1024 * 1024
"""Bytes of a file: enough for the largest configuration in YAML, which takes more space than JSON."""


class AgentFile(CreateAgent, Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An agent in a file: the fields of `CreateAgent`; unknown fields are refused."""


def write_agent_file(agent: CreateAgent) -> str:
    """Write an agent to a file; `read_agent_file` restores the same agent."""
    from perdure.domain.front_matter import join_front_matter  # YAML is heavy, and rarely needed

    front = msgspec.to_builtins(agent)
    prompt = front.pop("system_prompt")
    if prompt and prompt == prompt.strip() and "\r" not in prompt:
        return join_front_matter(front, prompt)
    # Reading a file trims the body and normalizes its line endings, so this prompt goes to the front matter.
    return join_front_matter({**front, "system_prompt": prompt}, "")


def read_agent_file(text: str) -> CreateAgent:
    """Read an agent from Markdown with front matter, a YAML or JSON document, or a plain prompt.

    Raises:
        InvalidInput: the text is malformed, has an unknown field, or has no prompt.
    """
    from perdure.domain.front_matter import read_yaml, split_front_matter

    front, body = split_front_matter(text)
    if front is None:
        return _without_front_matter(body.strip())
    fields = read_yaml(f"\n{front}")  # the newline stands for `---`, so errors name the line in the file
    return _agent({} if fields is None else fields, body.strip())


def _without_front_matter(text: str) -> CreateAgent:
    from perdure.domain.front_matter import read_yaml

    if not text:
        raise InvalidInput("the file is empty", code="empty_file")
    if text.startswith("{") or (_FIELD.match(text) and _NAMED.search(text)):
        return _agent(read_yaml(text), "")
    words = re.findall(r"[a-z0-9]+", text.partition("\n")[0].lower())
    name = "-".join(words)[:MAX_NAME].strip("-")
    return _agent({"name": name or "imported-agent"}, text)


_FIELD = re.compile(r"[a-z_]+:(\s|$)", re.MULTILINE)
_NAMED = re.compile(r"^name:\s", re.MULTILINE)
"""A text without front matter is YAML if it begins with a field and has a `name`; otherwise a prompt."""


def _agent(fields: Any, prompt: str) -> CreateAgent:
    if not isinstance(fields, dict):
        raise InvalidInput("the front matter must be a mapping of fields", code="invalid_front_matter")
    if prompt and "system_prompt" in fields:
        raise InvalidInput(
            "the file has two prompts: the body and `system_prompt`; remove one", field="system_prompt"
        )
    if prompt:
        fields = {**fields, "system_prompt": prompt}
    if "system_prompt" not in fields:
        raise InvalidInput(
            "the file has no prompt: write it after the front matter, or in `system_prompt`",
            field="system_prompt",
        )
    try:
        return msgspec.convert(fields, AgentFile)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error).replace("`$.", "`")[:500], code="invalid_front_matter") from None
