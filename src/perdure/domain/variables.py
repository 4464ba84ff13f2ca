r"""Variables of an agent's prompt: `{{name}}` stands for a value that its sessions and messages give.

    The order is #{{order}}.     `{{ order }}` is the same
    Write \{{name}} literally.   reads "Write {{name}} literally."

A value is inserted as it is: what looks like a variable in it stays text, and tags in it that could end the
prompt's section are escaped, because a value may come from anybody who writes to the agent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from perdure.domain.errors import InvalidInput, TooLarge

MAX_VARIABLES = 100
"""Variables of an agent."""
MAX_VALUE = 10_000
"""Characters of a value."""
MAX_VALUES = 100_000
"""Characters of all values of a session or message together."""
MAX_FILLED = 400_000
"""Characters of a prompt with its values: twice those of a prompt. A value may occur in it many times."""
NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$(?!\n)"

VariableName = Annotated[str, Meta(pattern=NAME_PATTERN, examples=["customer"])]
VariableValue = (
    Annotated[str, Meta(max_length=MAX_VALUE)]
    | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    | float
    | bool
)

_PLACE = re.compile(r"(\\?)\{\{[ \t]{0,20}([A-Za-z_][A-Za-z0-9_]{0,63})[ \t]{0,20}\}\}")
_TAG = re.compile(r"<[\s/]{0,20}(?:capability|harness|agent|session)\b", re.IGNORECASE)
"""The tags around the sections of a system prompt."""


class Variable(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A variable of an agent's prompt."""

    default: Annotated[
        VariableValue | None,
        Meta(description="The value to use where neither the message nor its session gives one."),
    ] = None
    description: Annotated[
        Annotated[str, Meta(max_length=1000)] | None, Meta(description="What to give, for people.")
    ] = None


Variables = Annotated[dict[VariableName, Variable], Meta(max_length=MAX_VARIABLES)]
"""The variables that an agent declares. One without a default is required."""
VariableValues = Annotated[dict[VariableName, VariableValue], Meta(max_length=MAX_VARIABLES)]
LoggedValue = Annotated[str, Meta(extra_json_schema={"maxLength": MAX_VALUE})] | int | float | bool
LoggedValues = Annotated[dict[str, LoggedValue], Meta(extra_json_schema={"maxProperties": MAX_VARIABLES})]
"""Values as logs have them. Decoding does not check their limits, so that every log stays readable;
`check_values` does."""


def text_of_value(value: VariableValue) -> str:
    """Return the text that stands for a value in a prompt: numbers and booleans as JSON writes them."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def texts_of(values: Mapping[str, VariableValue]) -> dict[str, str]:
    """Return the texts of values. Texts can be compared: `1`, `1.0` and `true` are equal in Python."""
    return {name: text_of_value(value) for name, value in values.items()}


def defaults_of(variables: Mapping[str, Variable]) -> dict[str, str | None]:
    """Return the texts of the defaults, and None for the variables that are required."""
    return {
        name: None if each.default is None else text_of_value(each.default)
        for name, each in variables.items()
    }


def mentions_variables(prompt: str) -> bool:
    """Whether a prompt has a variable, or one that is escaped."""
    return _PLACE.search(prompt) is not None


def names_in(prompt: str) -> tuple[str, ...]:
    """Return the names of the variables in a prompt, in the order of their first occurrence."""
    return tuple(dict.fromkeys(found[2] for found in _PLACE.finditer(prompt) if not found[1]))


def undeclared_in(prompt: str, variables: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the variables in a prompt that are not declared."""
    declared = frozenset(variables)
    return tuple(name for name in names_in(prompt) if name not in declared)


def check_prompt(prompt: str, variables: Mapping[str, Variable]) -> None:
    """Check that a prompt has only variables that its agent declares. Raises InvalidInput."""
    if unknown := undeclared_in(prompt, variables):
        raise InvalidInput(
            f"`system_prompt`: {_quoted(unknown)} is not in `variables`: declare it there, or write "
            f"`\\{{{{{unknown[0]}}}}}` if it is meant literally",
            code="unknown_variable",
            field="system_prompt",
        )


def check_values(given: Mapping[str, VariableValue], declared: Iterable[str], field: str) -> None:
    """Check the values that a session or message gives.

    Raises:
        InvalidInput: the agent declares no variable of this name.
        TooLarge: the values are too long together.
    """
    known = sorted(declared)
    for name in given:
        if name not in known:
            choices = f"those of the agent are {_quoted(known[:20])}" if known else "the agent has none"
            raise InvalidInput(
                f"`{field}`: the agent has no variable {name[:64]!r}: {choices}",
                code="unknown_variable",
                field=f"{field}.{name[:64]}",
            )
        _check_value(given[name], f"{field}.{name}")
    size = sum(map(len, texts_of(given).values()))
    if size > MAX_VALUES:
        raise TooLarge(
            f"`{field}` has {size} characters; the limit is {MAX_VALUES}: shorten the values",
            code="variables_too_large",
        )


def _check_value(value: VariableValue, field: str) -> None:
    if isinstance(value, str) and len(value) > MAX_VALUE:
        raise InvalidInput(f"`{field}` has {len(value)} characters; the limit is {MAX_VALUE}", field=field)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidInput(f"`{field}` must be a number of 64 bits; write a longer one as text", field=field)


def filled_in(declared: Mapping[str, str | None], *given: Mapping[str, str]) -> dict[str, str | None]:
    """Return the text of each declared variable: of the last that gives one, or else its default."""
    values = dict(declared)
    for each in given:
        values.update((name, text) for name, text in each.items() if name in values)
    return values


def missing_of(values: Mapping[str, str | None]) -> tuple[str, ...]:
    """Return the names of the variables without a value."""
    return tuple(name for name, text in values.items() if text is None)


def missing_message(names: Iterable[str]) -> str:
    """What to tell whoever sends a message without a required value."""
    return (
        f"no value for {_quoted(names)}, which the agent's prompt requires: give it in `variables` of the "
        "message or of the session"
    )


def fill(prompt: str, values: Mapping[str, str | None]) -> str:
    """Insert the values into a prompt, once. A variable without a value stays as it is written.

    Raises:
        TooLarge: the result would be too long.
    """
    pieces: list[str] = []
    inserted: list[tuple[int, int]] = []
    end, size = 0, 0
    for found in _PLACE.finditer(prompt):
        text = values.get(found[2])
        value = found[0][1:] if found[1] else text
        piece = found[0] if value is None else value
        pieces += (prompt[end : found.start()], piece)
        size += found.start() - end
        if not found[1] and text is not None:
            inserted.append((size, size + len(text)))
        size, end = size + len(piece), found.end()
        if size > MAX_FILLED:
            break
    size += len(prompt) - end
    if size > MAX_FILLED and inserted:
        raise TooLarge(
            f"the agent's prompt has over {MAX_FILLED} characters with the values of its variables: shorten "
            "the values, or use them less often",
            code="filled_prompt_too_long",
        )
    return _without_tags("".join((*pieces, prompt[end:])), inserted)


def _without_tags(text: str, inserted: list[tuple[int, int]]) -> str:
    """Escape the tags of sections that values have brought, wholly or in part."""
    if not inserted:
        return text
    pieces: list[str] = []
    end, at = 0, 0
    for found in _TAG.finditer(text):
        while at < len(inserted) and inserted[at][1] <= found.start():
            at += 1
        if at < len(inserted) and inserted[at][0] < found.end():
            pieces += (text[end : found.start()], "&lt;")
            end = found.start() + 1
    return "".join((*pieces, text[end:]))


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
