"""Reads the operator's file of MCP servers: `{"mcpServers": {name: {"command": ...} or {"url": ...}}}`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from perdure.app.mcp_checks import check_header_name
from perdure.domain.errors import InvalidInput
from perdure.domain.local_mcp import LocalMcpServer, local_id
from perdure.domain.mcp_servers import McpRules, slug_of

MAX_FILE = 1024 * 1024
"""Bytes of the file."""
MAX_LOCAL = 100
"""Servers in the file."""
PASSED_ON = ("PATH", "HOME", "LANG")
"""What a command gets of the server's own environment. It holds secrets, such as the master key."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class _Entry(McpRules, Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One server, as the usual files of MCP clients have it, with Perdure's own rules."""

    command: str | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    url: str | None = None
    headers: dict[str, str] = {}
    type: Literal["stdio", "http", "streamable-http"] | None = None
    description: str | None = None
    disabled: bool = False


class _File(Struct, frozen=True, rename="camel"):
    mcp_servers: dict[str, msgspec.Raw]


def read_local_servers(path: Path, environment: Mapping[str, str]) -> dict[str, LocalMcpServer]:
    """Read the servers of a file, by id.

    `${NAME}` and `${NAME:-default}` in its texts stand for variables of the environment.

    Raises:
        InvalidInput: the file cannot be read, or an entry is not valid; names the file and the entry.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE + 1)
    except OSError as error:
        raise _invalid(path, f"cannot be read: {error.strerror}") from error
    if len(text) > MAX_FILE:
        raise _invalid(path, f"is larger than {MAX_FILE} bytes")
    try:
        entries = msgspec.json.decode(text, type=_File).mcp_servers
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _invalid(path, f'is not JSON of the form {{"mcpServers": {{...}}}}: {error}') from None
    if len(entries) > MAX_LOCAL:
        raise _invalid(path, f"has {len(entries)} servers; the maximum is {MAX_LOCAL}")
    servers: dict[str, LocalMcpServer] = {}
    slugs: dict[str, str] = {}
    for name, raw in entries.items():
        server = _server(path, name, raw, environment)
        if server is None:
            continue
        if server.slug in slugs:
            message = (
                f"mcpServers.{name}: its tools would be named like those of {slugs[server.slug]!r}: rename it"
            )
            raise _invalid(path, message)
        slugs[server.slug] = name
        servers[server.id] = server
    return servers


def _server(path: Path, name: str, raw: msgspec.Raw, environment: Mapping[str, str]) -> LocalMcpServer | None:
    """Return the server of an entry; None if it is disabled."""
    where = f"mcpServers.{name}"
    try:
        entry = msgspec.json.decode(raw, type=_Entry)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise _invalid(path, f"{where}: {str(error).replace('`$.', '`')}") from None
    if not 0 < len(name) <= 100:
        raise _invalid(path, f"{where}: a name has 1 to 100 characters")
    if (entry.command is None) == (entry.url is None):
        raise _invalid(path, f"{where}: needs either `command` or `url`")
    if entry.type is not None and (entry.type == "stdio") != (entry.command is not None):
        raise _invalid(path, f"{where}.type: {entry.type!r} does not fit the other fields")
    if entry.disabled:
        return None

    def filled(text: str, key: str) -> str:
        return _filled(path, f"{where}.{key}", text, environment)

    command, url = _endpoint(path, where, entry, filled)
    given = {name: environment[name] for name in PASSED_ON if name in environment}
    rules = {name: getattr(entry, name) for name in McpRules.__struct_fields__}
    return LocalMcpServer(
        id=local_id(name),
        name=name,
        slug=slug_of(name),
        rules=msgspec.structs.replace(McpRules(), **rules),
        description=entry.description,
        command=command,
        args=tuple(filled(text, f"args[{index}]") for index, text in enumerate(entry.args)),
        env={**given, **{key: filled(text, f"env.{key}") for key, text in entry.env.items()}},
        cwd=None if entry.cwd is None else filled(entry.cwd, "cwd"),
        url=url,
        headers={key: filled(text, f"headers.{key}") for key, text in entry.headers.items()},
    )


def _endpoint(
    path: Path, where: str, entry: _Entry, filled: Callable[[str, str], str]
) -> tuple[str | None, str | None]:
    """Return the command and the URL, one of which is None."""
    for key in entry.env:
        if not key or "=" in key or "\0" in key:
            raise _invalid(path, f"{where}.env: {key!r} is not the name of a variable")
    for key in entry.headers:
        try:
            check_header_name(key, f"{where}.headers")
        except InvalidInput as error:
            raise _invalid(path, error.message.replace("`", "")) from None
    if entry.url is None:
        command = filled(entry.command or "", "command")
        if not command.strip():
            raise _invalid(path, f"{where}.command: is empty")
        return command, None
    url = filled(entry.url, "url")
    if not url.startswith(("http://", "https://")):
        raise _invalid(path, f"{where}.url: must begin with http:// or https://")
    return None, url


def _filled(path: Path, where: str, text: str, environment: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        known = environment.get(found[1]) or found[2]
        if known is None:
            raise _invalid(path, f"{where}: the variable {found[1]} is not in the server's environment")
        return known

    return _VARIABLE.sub(value, text)


def _invalid(path: Path, message: str) -> InvalidInput:
    return InvalidInput(
        f"the setting PERDURE_MCP_SERVERS: {str(path)!r} {message[:500]}", code="invalid_setting"
    )
