"""Guards: approval for the calls of a tool that change certain files, and not for its others."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.messages import JsonValue
from perdure.domain.paths import clean_path


class Guard(Struct, frozen=True):
    """The calls of a tool that need approval: those whose argument names one of the files.

    Attributes:
        argument: the tool's argument that holds the path.
        paths: the files, in normal form.
    """

    argument: str
    paths: frozenset[str]

    def covers(self, arguments: JsonValue) -> bool:
        """Whether a call with these arguments needs approval."""
        path = arguments.get(self.argument) if isinstance(arguments, dict) else None
        if not isinstance(path, str):
            return False
        try:
            return clean_path(path) in self.paths
        except InvalidInput:
            return False  # the tool refuses it
