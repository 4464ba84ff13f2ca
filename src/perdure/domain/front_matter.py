"""Reads and writes a small, strict subset of YAML for front matter.

It supports the values of JSON: mappings with text keys, lists, text, numbers, true, false and null. Words
such as `yes` and dates are text. Anchors, tags and several documents are refused.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from perdure.domain.errors import InvalidInput

try:
    from yaml import CSafeDumper as _BaseDumper
    from yaml import CSafeLoader as _Loader
except ImportError:  # built without the C library: the same, slower
    from yaml import SafeDumper as _BaseDumper  # type: ignore[assignment]
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

MAX_NODES = 100_000
MAX_DEPTH = 99
"""Limits of a file: the number of values, and their nesting depth (the same as in JSON bodies)."""

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_OTHER_BREAKS = re.compile("[\r\x85\u2028\u2029]")
"""Characters that YAML, but not this module, treats as line breaks."""
_CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}


def split_front_matter(text: str) -> tuple[str | None, str]:
    """Split a file into front matter, which is None if the file does not begin with a line `---`, and body.

    Raises:
        InvalidInput: no second line `---` ends the front matter.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    first, _, rest = text.partition("\n")
    if first.rstrip() != "---":
        return None, text
    lines = rest.split("\n")
    for index, line in enumerate(lines):
        if line.rstrip() == "---":
            return "\n".join(lines[:index]) + "\n", "\n".join(lines[index + 1 :])
    raise InvalidInput(
        "the front matter is not closed: end it with a line of three hyphens", code="invalid_front_matter"
    )


def join_front_matter(front: dict[str, Any], body: str) -> str:
    """Join front matter and body to a file."""
    head = f"---\n{write_yaml(front)}---\n"
    return f"{head}\n{body}\n" if body else head


def read_yaml(text: str) -> Any:
    """Read the value of a YAML document.

    Raises:
        InvalidInput: the text is not YAML, or uses a part of YAML that is not supported; names the line.
    """
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_Loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        raise _invalid(error.problem or "cannot be read", error.problem_mark) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _invalid(str(error).splitlines()[0], None) from None
    return builder.value


def write_yaml(value: Any) -> str:
    """Write a plain value as YAML; `read_yaml` restores the same value."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120
    )


def _invalid(problem: str, mark: Any) -> InvalidInput:
    position = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return InvalidInput(f"{position}{problem[:200]}", code="invalid_front_matter")


def _plain(text: str, mark: Any) -> Any:
    """The value of an unquoted scalar."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        # Longer numbers are out of range and slow to convert.
        if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 63:
            raise _invalid("an integer must fit in 64 bits", mark)
        return int(text)
    if _NUMBER.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise _invalid("a number must fit in a double", mark)
        return number
    return text


class _Builder:
    """Builds the value from the parser's events, without recursion."""

    def __init__(self) -> None:
        self.value: Any = None
        self._open: list[dict[str, Any] | list[Any]] = []
        self._keys: list[str | None] = []
        self._nodes = 0
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        mark = event.start_mark
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _invalid("the file must contain only one document", mark)
        elif isinstance(event, yaml.AliasEvent):
            raise _invalid("aliases are not supported", mark)
        elif isinstance(event, yaml.NodeEvent):
            self._node(event, mark)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._open.pop()
            self._keys.pop()

    def _node(self, event: Any, mark: Any) -> None:
        self._nodes += 1
        if event.anchor is not None or event.tag is not None:
            raise _invalid("anchors and tags are not supported", mark)
        if self._nodes > MAX_NODES:
            raise _invalid(f"the file may contain at most {MAX_NODES} values", mark)
        if isinstance(event, yaml.ScalarEvent):
            if "\x00" in event.value:
                raise _invalid("NUL characters are not allowed", mark)
            self._put(event.value, not event.style, mark)
            return
        if len(self._open) >= MAX_DEPTH:
            raise _invalid(f"values may be nested at most {MAX_DEPTH} levels deep", mark)
        container: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._put(container, False, mark)
        self._open.append(container)
        self._keys.append(None)

    def _put(self, value: Any, plain: bool, mark: Any) -> None:
        holder = self._open[-1] if self._open else None
        if isinstance(holder, dict) and self._keys[-1] is None:
            if not isinstance(value, str):
                raise _invalid("a key must be text", mark)
            if value in holder:
                raise _invalid(f"the key {value[:60]!r} occurs twice", mark)
            self._keys[-1] = value
            return
        if plain:
            value = _plain(value, mark)
        if holder is None:
            self.value = value
        elif isinstance(holder, list):
            holder.append(value)
        else:
            key, self._keys[-1] = self._keys[-1], None
            holder[str(key)] = value


class _Dumper(_BaseDumper):
    """Quotes text that would be read back as another value, and writes multi-line text in block style."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _write_text(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else None
    if text in _CONSTANTS or _NUMBER.fullmatch(text) or _OTHER_BREAKS.search(text):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _write_text)
