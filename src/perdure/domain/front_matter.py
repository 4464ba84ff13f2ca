"""A small, strict YAML for people's files: plain values in, plain values out.

No anchors, tags or second documents.

Only what JSON could say as well: mappings with text keys, lists, text, numbers, true, false and null. Words
such as `yes` and dates are text.
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
"""Bounds of a file: values in all, and how deep they are nested (as in JSON bodies)."""

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_OTHER_BREAKS = re.compile("[\r\x85\u2028\u2029]")
"""What ends a line to YAML, though not to us."""
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


def split_front_matter(text: str) -> tuple[str | None, str]:
    """The front matter and the body of a file; None when it does not begin with a line `---`.

    Raises:
        InvalidInput: no line `---` ends the front matter.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    first, _, rest = text.partition("\n")
    if first.rstrip() != "---":
        return None, text
    lines = rest.split("\n")
    for index, line in enumerate(lines):
        if line.rstrip() == "---":
            return "\n".join(lines[:index]) + "\n", "\n".join(lines[index + 1 :])
    raise InvalidInput("the front matter has no end: a line with three hyphens", code="invalid_front_matter")


def join_front_matter(front: dict[str, Any], body: str) -> str:
    """A file with this front matter and body."""
    head = f"---\n{write_yaml(front)}---\n"
    return f"{head}\n{body}\n" if body else head


def read_yaml(text: str) -> Any:
    """The value of a YAML document.

    Raises:
        InvalidInput: not YAML, or more of it than is read here; the message names the line.
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
    """The YAML of a plain value; `read_yaml` gives the same value back."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120
    )


def _invalid(problem: str, mark: Any) -> InvalidInput:
    where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return InvalidInput(f"{where}{problem[:200]}", code="invalid_front_matter")


def _plain(text: str, mark: Any) -> Any:
    """What an unquoted word means."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        # Longer ones are out of range, and slow to convert.
        if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 63:
            raise _invalid("a whole number must fit in 64 bits", mark)
        return int(text)
    if _NUMBER.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise _invalid("a number must fit in a double", mark)
        return number
    return text


class _Builder:
    """Puts values together from the parser's events, without recursion."""

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
                raise _invalid("there may be one document only", mark)
        elif isinstance(event, yaml.AliasEvent):
            raise _invalid("aliases are not read here", mark)
        elif isinstance(event, yaml.NodeEvent):
            self._node(event, mark)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._open.pop()
            self._keys.pop()

    def _node(self, event: Any, mark: Any) -> None:
        self._nodes += 1
        if event.anchor is not None or event.tag is not None:
            raise _invalid("anchors and tags are not read here", mark)
        if self._nodes > MAX_NODES:
            raise _invalid(f"there may be {MAX_NODES} values at most", mark)
        if isinstance(event, yaml.ScalarEvent):
            if "\x00" in event.value:
                raise _invalid("NUL characters are not allowed", mark)
            self._put(event.value, not event.style, mark)
            return
        if len(self._open) >= MAX_DEPTH:
            raise _invalid(f"values may be nested {MAX_DEPTH} deep", mark)
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
                raise _invalid(f"the key {value[:60]!r} is there twice", mark)
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
    """Quotes what would read back as something else, and keeps lines as lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _write_text(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else None
    if text in _WORDS or _NUMBER.fullmatch(text) or _OTHER_BREAKS.search(text):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _write_text)
