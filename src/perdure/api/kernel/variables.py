"""The variables of a path: ids, ids or names, and plain text."""

from __future__ import annotations

import re
from types import UnionType
from typing import NewType, Union, get_args, get_origin

from msgspec import Struct

from perdure.domain.errors import InvalidId, InvalidInput
from perdure.domain.ids import ID_PREFIXES, REFERENCE_PREFIXES, Prefix, is_id

RestOfPath = NewType("RestOfPath", str)
"""The type of the last variable of a path where it takes all the rest, slashes included."""

_REFERENCE = re.compile(r"[a-z0-9-]{1,64}")


class Variable(Struct, frozen=True):
    """One variable of a path.

    Attributes:
        prefixes: the kinds of id that it may be; none for text that is no id.
        named: a name will do as well.
        rest: it takes the rest of the path, slashes included.
    """

    name: str
    prefixes: tuple[Prefix, ...] = ()
    named: bool = False
    rest: bool = False

    def read(self, text: str) -> str:
        """The text itself, once it is known to be what the variable's type says. Raises InvalidInput."""
        for prefix in self.prefixes:
            if is_id(text, prefix):
                return text
        if self.prefixes and not self.named:
            raise InvalidId(self.prefixes[0], self.name)
        if "\x00" in text:
            raise InvalidInput(f"`{self.name}` must not hold NUL characters", field=self.name)
        # A text with anything but small letters, digits and hyphens can only be a broken id.
        if self.named and not _REFERENCE.fullmatch(text):
            raise InvalidId(self.prefixes[0], self.name)
        return text


def variable_of(name: str, kind: object) -> Variable:
    """The variable of this name whose handler takes it as this type. Raises TypeError."""
    if kind is str or kind is RestOfPath:
        return Variable(name, rest=kind is RestOfPath)
    if kind in REFERENCE_PREFIXES:
        return Variable(name, (REFERENCE_PREFIXES[kind],), named=True)
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if unknown := [each for each in kinds if each not in ID_PREFIXES]:
        raise TypeError(f"`{name}`: a variable of a path cannot be of the type {unknown[0]}")
    return Variable(name, tuple(ID_PREFIXES[each] for each in kinds))
