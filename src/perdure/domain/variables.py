"""Variables of an agent's prompt: `{{name}}` stands for a value that its sessions and messages give."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

MAX_VARIABLES = 100
"""Variables of an agent."""
MAX_VALUE = 10_000
"""Characters of a value."""
NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$(?!\n)"

VariableName = Annotated[str, Meta(pattern=NAME_PATTERN, examples=["customer"])]
VariableValue = Annotated[str, Meta(max_length=MAX_VALUE)] | int | float | bool


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
