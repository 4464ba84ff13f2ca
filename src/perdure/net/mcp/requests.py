"""Requests to servers, in terms of both eras and both transports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from perdure.domain.mcp import Era, McpAnswers
from perdure.domain.mcp_results import ServerInfo
from perdure.domain.mcp_servers import ElicitationPolicy
from perdure.domain.messages import JsonObject
from perdure.net.mcp.http import MAX_ANSWER
from perdure.net.mcp.rounds import Progress, Round


class Wanted(Struct):
    """A request to a server, and what has become of it.

    Attributes:
        extra: headers of this request.
        turn: the round that it is in, or was in.
        era: the era that it was sent in.
        idempotent: whether it may be made again.
    """

    method: str
    params: JsonObject
    extra: Mapping[str, str] = {}
    progress: Progress | None = None
    answers: McpAnswers | None = None
    max_bytes: int = MAX_ANSWER
    turn: Round | None = None
    era: Era | None = None
    idempotent: bool = False

    @property
    def sent(self) -> bool:
        """Whether it may have reached the server."""
        return self.turn is not None and self.turn.sent


class Spoken(Struct, frozen=True):
    """What a server speaks, and what it says about itself."""

    era: Era
    protocol: str
    info: ServerInfo


class Line(Protocol):
    """The way to one server.

    Attributes:
        name: for messages; it reveals no credential.
        policy: which questions to users are passed on.
    """

    name: str
    policy: ElicitationPolicy

    def clean(self, text: str, /) -> str:
        """The text, cut and without hidden characters and credentials."""
        ...

    async def spoken(self, scope: str) -> Spoken:
        """What the server speaks. Raises as `ask` does, and Broken only with `sent=False`."""
        ...

    async def ask(self, scope: str, wanted: Wanted) -> JsonObject:
        """Send a request and return its result.

        Raises:
            McpRefused, McpUnauthorized, McpUnreachable: the server's answer.
            Refused: it answered with another status than 2xx.
            Broken: there is no answer; `sent` tells whether the request may have run.
            UserAsked: it asks a user.
            TooManyRequests: it asks endlessly.
        """
        ...
