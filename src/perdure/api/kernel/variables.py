"""The variables of a route's path: ids, ids or names, and plain text."""

from __future__ import annotations

import re
from types import UnionType
from typing import NewType, Union, get_args, get_origin

from msgspec import Struct

from perdure.domain.errors import InvalidId, InvalidInput
from perdure.domain.ids import ID_PREFIXES, REFERENCE_PREFIXES, Prefix, is_id

RestOfPath = NewType("RestOfPath", str)
"""The type of a path's last variable if it takes the rest of the path, slashes included."""

_REFERENCE = re.compile(r"[a-z0-9-]{1,64}")


class Variable(Struct, frozen=True):
    """One variable of a path.

    Attributes:
        prefixes: the prefixes of the ids that it accepts; empty for plain text.
        named: whether it accepts a resource's name as well.
        rest: whether it takes the rest of the path, slashes included.
    """

    name: str
    prefixes: tuple[Prefix, ...] = ()
    named: bool = False
    rest: bool = False

    def check(self, text: str) -> str:
        """Return the text unchanged if it fits the variable's type. Raises InvalidInput."""
        for prefix in self.prefixes:
            if is_id(text, prefix):
                return text
        if self.prefixes and not self.named:
            raise InvalidId(self.prefixes[0], self.name)
        if "\x00" in text:
            raise InvalidInput(f"`{self.name}` must not contain NUL characters", field=self.name)
        # Names have only lower-case letters, digits and hyphens. Other text is taken for a malformed id.
        if self.named and not _REFERENCE.fullmatch(text):
            ids = " or ".join(f"{each}_<32 lower-case hex digits>" for each in self.prefixes)
            raise InvalidInput(
                f"`{self.name}` must be a name of lower-case letters, digits and hyphens, or an id of the"
                f" form {ids}",
                code="invalid_id",
                field=self.name,
            )
        return text


def variable_of(name: str, kind: object) -> Variable:
    """Return the variable that a handler's parameter declares. Raises TypeError for an unsuitable type."""
    if kind is str or kind is RestOfPath:
        return Variable(name, rest=kind is RestOfPath)
    if kind in REFERENCE_PREFIXES:
        return Variable(name, REFERENCE_PREFIXES[kind], named=True)
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if unknown := [each for each in kinds if each not in ID_PREFIXES]:
        raise TypeError(f"`{name}`: a path variable cannot have the type {unknown[0]}")
    return Variable(name, tuple(ID_PREFIXES[each] for each in kinds))
