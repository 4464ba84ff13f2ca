"""Find out which era of the protocol a server speaks, and remember it."""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct

from perdure.domain import mcp_wire as wire
from perdure.domain.mcp import Era, McpRefused, McpUnreachable
from perdure.domain.mcp_results import ServerInfo, server_info
from perdure.domain.mcp_wire import RpcError
from perdure.domain.messages import JsonObject, JsonValue
from perdure.net.mcp.http import Remote

MAX_REMEMBERED = 1_024

_NOT_A_VERDICT = frozenset({408, 425, 429})


class Verdict(Struct, frozen=True):
    """The era of a server, and what a stateless one has said about itself to these credentials."""

    era: Era
    info: ServerInfo | None = None


LEGACY = Verdict("legacy")


class Eras:
    """The verdicts on the servers that were used last.

    All who use a URL share its era; what a server says about itself may be for one user only.
    """

    def __init__(self) -> None:
        self._eras: OrderedDict[str, Era] = OrderedDict()
        self._infos: OrderedDict[str, ServerInfo] = OrderedDict()

    def get(self, remote: Remote) -> Verdict | None:
        """The verdict on a server, if it is remembered."""
        era = self._eras.get(_place(remote))
        return None if era is None else Verdict(era, self._infos.get(remote.key))

    def remember(self, remote: Remote, verdict: Verdict) -> None:
        """Remember a verdict; the oldest one makes room."""
        self._eras[_place(remote)] = verdict.era
        if verdict.info is not None:
            self._infos[remote.key] = verdict.info
        for book in (self._eras, self._infos):
            if len(book) > MAX_REMEMBERED:
                book.popitem(last=False)

    def forget(self, remote: Remote) -> None:
        """Forget a verdict that does not fit any more."""
        self._eras.pop(_place(remote), None)
        self._infos.pop(remote.key, None)


def _place(remote: Remote) -> str:
    return f"{remote.endpoint.protocol} {remote.url}"


def of_discovery(result: JsonObject) -> Verdict:
    """The verdict on a server that answered `server/discover`."""
    versions = result.get("supportedVersions")
    if isinstance(versions, list) and wire.STATELESS in versions:
        return Verdict("stateless", server_info(result))
    return LEGACY


def of_error(code: int, data: JsonValue, name: str) -> Verdict:
    """The verdict on a server that answered `server/discover` with a JSON-RPC error.

    Raises:
        McpUnreachable: it says that it speaks no revision that this client does.
        McpRefused: it is stateless, and does not accept the request.
    """
    if code not in wire.STATELESS_CODES:
        return LEGACY
    if code == wire.UNSUPPORTED_VERSION:
        supported = data.get("supported") if isinstance(data, dict) else None
        spoken = supported if isinstance(supported, list) else []
        if wire.STATELESS in spoken:
            return Verdict("stateless")  # as it says
        if any(version in wire.LEGACY for version in spoken):
            return LEGACY
        raise McpUnreachable(
            f"{name} speaks no revision of the protocol that this client does: "
            f"{', '.join(wire.text_in(each, 20) for each in spoken[:5]) or 'it names none'}"
        )
    raise McpRefused(f"{name} does not accept requests of the revision {wire.STATELESS} ({code})", code)


def of_status(status: int, error: RpcError | None, name: str) -> Verdict | None:
    """The verdict on a server that answered with another status than 2xx; None if that says nothing."""
    if not 400 <= status < 500 or status in _NOT_A_VERDICT:
        return None
    return LEGACY if error is None else of_error(error.code, error.data, name)
