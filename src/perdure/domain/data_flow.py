"""Data flow: text from outside in a session's context, and the calls that could carry data out.

Text from outside may be an injected instruction. Once a session's model has received some, what it asks for
may be somebody else's wish, for as long as the session lives: a summary or an answer can repeat the wish.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from perdure.domain.messages import JsonValue

MAX_SOURCES = 10
"""Sources of one session that are kept: the first ones. A session with more is no more external."""
MAX_SOURCE = 200
"""Characters of a source's name."""

ReasonCode = Literal["exfiltration", "persistent_change"]


class External(Struct, frozen=True, omit_defaults=True):
    """Where text comes from that neither the session's users nor its agents wrote."""

    source: Annotated[
        str,
        Meta(
            description="A host, an MCP server, a callback, or what else the text came from.",
            examples=["example.org"],
        ),
    ]
    tool: Annotated[
        str | None, Meta(description="The tool that brought it, if one did.", examples=["web_fetch"])
    ] = None


UNKNOWN = External("before this server noted where text comes from")
"""The source of a session that an older release began: what it has read is not known."""

CALLBACK = "a callback"


def with_sources(known: tuple[External, ...], more: Iterable[External]) -> tuple[External, ...]:
    """The sources of a session once it has text from these, too."""
    found = {each.source: each for each in (*known, *more)}
    return tuple(found.values())[:MAX_SOURCES] if len(found) > len(known) else known


class AskReason(Struct, frozen=True):
    """Why a call needs approval, beyond that its tool does."""

    code: Annotated[
        ReasonCode,
        Meta(
            description=(
                "`exfiltration`: the context has text from outside, and the call can send data out; "
                "`persistent_change`: the call changes what later turns or sessions do."
            ),
            examples=["exfiltration"],
        ),
    ]
    message: Annotated[
        str,
        Meta(
            description="The reason, for people.",
            examples=[
                "The conversation contains text from example.org, and this call sends data to api.example."
            ],
        ),
    ]


class Flow(Struct, frozen=True, omit_defaults=True):
    """What a tool's calls exchange with the world outside.

    Attributes:
        reads: whether results can contain text from there.
        sends: whether arguments can carry data out.
        argument: the argument with the URL of who is at the other end.
        where: the sessions of which this holds: those that may reach some host by name, those that may reach
            every host, or all.
    """

    reads: bool = True
    sends: bool = True
    argument: str | None = None
    where: Literal["always", "named_hosts", "any_host"] = "always"


class Outlet(Struct, frozen=True):
    """Where the calls of a tool can send data.

    Attributes:
        place: who receives it, if no argument says so.
        argument: the argument with the URL that it is sent to.
    """

    place: str
    argument: str | None = None

    def receiver(self, arguments: JsonValue) -> str:
        """Who would receive the data of a call, for people."""
        url = self.url_of(arguments)
        return self.place if url is None else host_of(url) or self.place

    def url_of(self, arguments: JsonValue) -> str | None:
        """The URL that a call names."""
        if self.argument is None or not isinstance(arguments, dict):
            return None
        url = arguments.get(self.argument)
        return url if isinstance(url, str) else None


NO_OUTLETS: Mapping[str, Outlet] = MappingProxyType({})


def exfiltration(sources: tuple[External, ...], receiver: str) -> AskReason:
    """The reason of a call that could carry data out."""
    first = ", ".join(each.source for each in sources[:3])
    more = f" and {len(sources) - 3} other sources" if len(sources) > 3 else ""
    said = f"The conversation contains text from {first}{more}, and this call sends data to {receiver}."
    return AskReason("exfiltration", said)


_HOST = re.compile(r"[a-z0-9_.:-]{1,200}")


def host_of(url: str) -> str | None:
    """The host of a URL, for people; None if it has none that all readers of URLs agree on.

    Whoever writes a URL must not be able to write a sentence into a question that people answer.
    """
    if "\\" in url:
        return None
    try:
        host = urlsplit(url.strip()).hostname or ""
        name = host if host.isascii() else host.encode("idna").decode()
    except ValueError:
        return None
    return name if _HOST.fullmatch(name) else None
