"""Answers to the HTTP requests of tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.errors import ToolError


class HttpAnswer(Struct, frozen=True):
    """The answer to a request that a tool made.

    Attributes:
        url: where the answer comes from, after redirects.
        headers: by name, in lower case.
        content: the body, decompressed.
        charset: the body's encoding, as the server declares it.
    """

    status: int
    url: str
    headers: Mapping[str, str]
    content: bytes
    charset: str | None = None

    @property
    def text(self) -> str:
        """The body as text."""
        try:
            return self.content.decode(self.charset or "utf-8", errors="replace")
        except LookupError:
            return self.content.decode(errors="replace")

    def json(self) -> Any:
        """The body's JSON. Raises ToolError: it is none."""
        try:
            return msgspec.json.decode(self.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ToolError(f"{self.url} did not answer with JSON (status {self.status})") from None

    def raise_for_status(self) -> HttpAnswer:
        """Return the answer. Raises ToolError: its status is 400 or higher."""
        if self.status >= 400:
            raise ToolError(f"{self.url} answered with status {self.status}: {self.text[:500]}")
        return self
