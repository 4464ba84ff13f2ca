"""Checks of what callers say about MCP servers: addresses, headers, and references to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, urlsplit

from aiohttp.abc import AbstractResolver
from msgspec import UnsetType
from yarl import URL

from perdure.app.context import Services
from perdure.app.provider_settings import SECRET_PARAMETER
from perdure.domain.errors import InvalidInput, ToolError
from perdure.domain.ids import OrgId, is_id
from perdure.domain.mcp_servers import HIDDEN, MCP_REF, PLACEHOLDER, InlineMcpServer, McpTransport
from perdure.domain.network import NetworkRules, PrivateAddresses
from perdure.domain.tools import CapabilityRef
from perdure.net.addresses import (
    SystemResolver,
    is_reachable,
    is_refused_address,
    is_refused_host,
    look_up_all,
    plain_address,
)
from perdure.net.web_client import checked_url
from perdure.store.database import Tx
from perdure.store.mcp_servers import known_mcp_servers

LOOK_UP = 3.0
"""Seconds for the names in the URLs of one request. A name without an answer is checked at each call."""

_OPEN = NetworkRules(private=True)
_RESERVED = frozenset(
    {
        "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type",
        "expect", "host", "keep-alive", "last-event-id", "origin", "te", "trailer", "transfer-encoding",
        "upgrade",
    }
)  # fmt: skip
"""Headers about the transport of a request, which only the client of the protocol sets."""
_RESERVED_PREFIXES = ("mcp-", "proxy-", "sec-")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_CREDENTIAL = re.compile(
    r"^(proxy-)?authorization$|^cookie$|key|token|secret|password|credential", re.IGNORECASE
)


# --- addresses ----------------------------------------------------------------


def check_transport(transport: McpTransport | UnsetType, field: str) -> None:
    """Refuse local commands: a caller must not choose what runs on the server. Raises InvalidInput."""
    if transport == "stdio":
        raise InvalidInput(
            f"`{field}`: local commands cannot be configured through the API: the operator lists them "
            "in the file that PERDURE_MCP_SERVERS names",
            code="stdio_not_allowed",
            field=field,
        )


async def check_urls(
    urls: Mapping[str, str], private: PrivateAddresses, resolver: AbstractResolver | None = None
) -> None:
    """Check that the server may reach these URLs.

    Args:
        urls: each URL by the field that it is in.
        private: the setting PERDURE_PRIVATE_ADDRESSES.
        resolver: resolves names; the system's resolver by default.

    Raises:
        InvalidInput: a URL is malformed, has credentials in it, or leads to an address that is refused.
    """
    hosts = {field: _host_of(text, field) for field, text in urls.items()}
    names = {host for host in hosts.values() if plain_address(host) is None}
    found = await look_up_all(sorted(names), resolver or SystemResolver(), LOOK_UP) if names else {}
    for field, host in hosts.items():
        address = plain_address(host)
        check_addresses(host, found.get(host, ()) if address is None else (address,), private, field)


def _host_of(text: str, field: str) -> str:
    try:
        host = URL(text.strip()).raw_host or ""
        if is_refused_host(host):
            raise _metadata(host, field)
        url = checked_url(text, _OPEN)
        names = [name for name, _ in parse_qsl(urlsplit(text).query, keep_blank_values=True)]
    except (ToolError, ValueError) as error:
        if "user name" in str(error):
            raise _credentials(field) from None
        raise InvalidInput(f"`{field}`: {error}", code="invalid_mcp_url", field=field) from None
    if any(SECRET_PARAMETER.search(name) for name in names):
        raise _credentials(field)
    return url.raw_host or ""


def _credentials(field: str) -> InvalidInput:
    return InvalidInput(
        f"`{field}` contains credentials, and all members of the organization can read it: move them to "
        "`api_key` or `headers`",
        code="secret_in_url",
        field=field,
    )


def _metadata(host: str, field: str) -> InvalidInput:
    return InvalidInput(
        f"`{field}`: {host} is a cloud metadata service, which hands out credentials: it is refused under "
        "every setting",
        code="mcp_address_refused",
        field=field,
    )


def check_addresses(host: str, addresses: Iterable[str], private: PrivateAddresses, field: str) -> None:
    """Check the addresses of a host. Without any, nothing is refused. Raises InvalidInput."""
    seen = list(addresses)
    if any(map(is_refused_address, seen)):
        raise _metadata(host, field)
    if seen and not any(is_reachable(each, private) for each in seen):
        where = host if plain_address(host) is not None else f"{host} ({seen[0]})"
        raise InvalidInput(
            f"`{field}`: {where} is in a private network or on this machine, which this server may not "
            f"reach: the operator can allow it with PERDURE_PRIVATE_ADDRESSES, for example {seen[0]}",
            code="mcp_address_refused",
            field=field,
        )


# --- headers ------------------------------------------------------------------


def check_header_name(name: str, field: str) -> None:
    """Check that a header may be configured. Raises InvalidInput."""
    if _TOKEN.fullmatch(name) is None:
        raise InvalidInput(
            f"`{field}`: {name[:40]!r} is not a valid header name: use letters, digits and hyphens",
            code="invalid_header",
            field=field,
        )
    plain = name.lower()
    if plain in _RESERVED or plain.startswith(_RESERVED_PREFIXES):
        raise InvalidInput(
            f"`{field}`: the header {name!r} is set by the client of the protocol: remove it",
            code="invalid_header",
            field=field,
        )


def check_headers(headers: Mapping[str, str], field: str) -> None:
    """Check the names and values of headers. Raises InvalidInput."""
    seen: set[str] = set()
    for name, value in headers.items():
        check_header_name(name, field)
        if name.lower() in seen:
            raise InvalidInput(
                f"`{field}`: the header {name!r} is there twice: upper and lower case do not count",
                code="invalid_header",
                field=field,
            )
        seen.add(name.lower())
        if not value or value != value.strip() or _VALUE.fullmatch(value) is None:
            raise InvalidInput(
                f"`{field}`: the value of the header {name!r} is empty, starts or ends with white space, or "
                "has control or non-Latin characters",
                code="invalid_header",
                field=field,
            )
        if "{{" in PLACEHOLDER.sub("", value):
            raise InvalidInput(
                f"`{field}`: the header {name!r} has a placeholder other than {{{{secret:NAME}}}}",
                code="invalid_header",
                field=field,
            )


def is_credential(header: str) -> bool:
    """Whether a header of this name usually carries a credential."""
    return _CREDENTIAL.search(header) is not None


def is_shown(value: str) -> bool:
    """Whether a header's value may be read back: it stands for a secret of the session."""
    return PLACEHOLDER.search(value) is not None


# --- servers in configurations --------------------------------------------------


async def check_inline(
    app: Services, servers: Mapping[str, InlineMcpServer] | UnsetType | None, field: str = "mcpServers"
) -> None:
    """Check the servers that a harness, an agent or a session defines.

    Raises:
        InvalidInput: a server cannot be used, or has a credential that everybody could read.
    """
    if isinstance(servers, UnsetType) or not servers:
        return
    for name, server in servers.items():
        where = f"{field}.{name}"
        check_transport(server.type, f"{where}.type")
        if not server.url:
            raise InvalidInput(
                f"`{where}.url` is missing: only servers with a URL can be used here; the operator lists "
                "local commands in the file that PERDURE_MCP_SERVERS names",
                code="invalid_mcp_url",
                field=f"{where}.url",
            )
        check_headers(server.headers, f"{where}.headers")
        if server.effect_key_header is not None:
            check_header_name(server.effect_key_header, f"{where}.effect_key_header")
        for header, value in server.headers.items():
            if (is_credential(header) or value == HIDDEN) and not is_shown(value):
                raise InvalidInput(
                    f"`{where}.headers`: the value of {header!r} could be read by all who can read this "
                    "configuration: store it as a secret of the session and write {{secret:NAME}}, or "
                    "register the server at POST /v1/mcp-servers",
                    code="literal_credential",
                    field=f"{where}.headers",
                )
    await check_urls(
        {f"{field}.{name}.url": server.url for name, server in servers.items()}, app.private_addresses
    )


async def check_mcp_refs(
    app: Services,
    tx: Tx,
    org_id: OrgId,
    refs: Iterable[CapabilityRef] | UnsetType,
    field: str = "capabilities",
) -> None:
    """Check that capabilities `mcp:{server_id}` name servers that the organization can use.

    Raises:
        InvalidInput: a server does not exist.
    """
    if isinstance(refs, UnsetType):
        return
    named = {
        index: ref.ref.removeprefix(MCP_REF) for index, ref in enumerate(refs) if ref.ref.startswith(MCP_REF)
    }
    wanted = [each for each in named.values() if each not in app.local_mcp and is_id(each, "mcp")]
    known = {*app.local_mcp, *await known_mcp_servers(tx, org_id, wanted)}
    for index, server_id in named.items():
        if server_id not in known:
            raise InvalidInput(
                f"`{field}[{index}].ref`: no MCP server has the id {server_id[:60]!r}; write mcp: and the "
                "server's id, not its name; see GET /v1/mcp-servers",
                code="unknown_capability",
                field=f"{field}[{index}]",
            )
