"""`perdure mcp ...`: servers of the Model Context Protocol, whose tools agents use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter
from perdure.cli.connections import sign_in as sign_in_at
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.mcp_servers import McpServer
    from perdure.domain.mcp_views import McpCheck, McpToolInfo

app = typer.Typer(
    help="Register MCP servers, whose tools agents can use.",
    epilog="Start with `perdure mcp add issues https://mcp.example.com/mcp --key-env ISSUES_KEY`.",
    no_args_is_help=True,
)

app.command("sign-in")(sign_in_at)

Server = Annotated[str, typer.Argument(help="The server's id or name.", show_default=False)]
Headers = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        metavar="NAME=VALUE",
        help="A header of every request; {{secret:NAME}} in it stands for a session's secret. Repeatable.",
        show_default=False,
    ),
]
KeyVariable = Annotated[
    str | None,
    typer.Option(
        "--key-env",
        metavar="VAR",
        help="The environment variable that holds the API key. It is sent as a bearer token.",
        show_default=False,
    ),
]
Ask = Annotated[
    list[str] | None,
    typer.Option(
        "--ask", metavar="TOOL", help="Ask for approval of this tool; * for all.", show_default=False
    ),
]
Auto = Annotated[
    list[str] | None,
    typer.Option("--auto", metavar="TOOL", help="Run this tool without approval.", show_default=False),
]
Deny = Annotated[
    list[str] | None,
    typer.Option("--deny", metavar="TOOL", help="Do not offer this tool.", show_default=False),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow", metavar="TOOL", help="Offer only this tool, and others so given.", show_default=False
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", help="How long one call may take, in seconds.", min=0.001, show_default="60"),
]
About = Annotated[
    str | None, typer.Option("--description", help="What the server is for.", show_default=False)
]
Protocol = Annotated[
    str | None,
    typer.Option(
        "--protocol", help="auto, legacy, stable or rc: the protocol's revision.", show_default="auto"
    ),
]
SignIn = Annotated[
    bool, typer.Option("--sign-in", help="People sign in at the server (OAuth) instead of an API key.")
]

ClientId = Annotated[
    str | None,
    typer.Option(
        "--oauth-client-id",
        metavar="ID",
        help="Your client at the server's authorization server, if clients cannot register themselves.",
        show_default=False,
    ),
]
ClientSecret = Annotated[
    str | None,
    typer.Option(
        "--oauth-client-secret-env",
        metavar="VAR",
        help="The environment variable that holds the client's secret.",
        show_default=False,
    ),
]
Issuer = Annotated[
    str | None,
    typer.Option(
        "--oauth-issuer",
        metavar="URL",
        help="The only authorization server that gets the secret. Default: the first one that is named.",
        show_default=False,
    ),
]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", help="What sign-ins ask for. Repeatable.", show_default=False),
]
Acts = Annotated[
    str | None,
    typer.Option(
        "--acts-as", help="Whose sign-in is used: user, service or user_or_service.", show_default=False
    ),
]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The name; its tools are named after it.", show_default=False)],
    address: Annotated[str, typer.Argument(metavar="URL", help="Its MCP endpoint.", show_default=False)],
    header: Headers = None,
    key_env: KeyVariable = None,
    ask: Ask = None,
    auto: Auto = None,
    deny: Deny = None,
    allow: Allow = None,
    timeout: Timeout = None,
    description: About = None,
    protocol: Protocol = None,
    sign_in: SignIn = False,
    acts_as: Acts = None,
    client_id: ClientId = None,
    client_secret_env: ClientSecret = None,
    issuer: Issuer = None,
    scope: Scopes = None,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not check the connection afterwards.")
    ] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Register a server, and check that it answers.

    Example: perdure mcp add issues https://mcp.example.com/mcp --key-env ISSUES_KEY --ask delete_issue
    """
    fields = _fields(header, key_env, ask, auto, deny, allow, timeout, description, protocol)
    fields |= _client_fields(acts_as, client_id, client_secret_env, issuer, scope)
    if sign_in:
        fields["auth_mode"] = "o_auth"
    enter(_add(connect(url, token, org), name, address, fields, not no_check, as_json))


async def _add(
    client: Client, name: str, address: str, fields: dict[str, Any], check: bool, as_json: bool
) -> None:
    async with client:
        server = await client.create_mcp_server(name=name, url=address, **fields)
        screen = Screen()
        if as_json:
            screen.json(server)
            return
        screen.line("added ", (server.id, "bold"), f" ({server.name})")
        screen.line(
            f'Agents use it with the capability "mcp:{server.id}"; its tools are mcp_{server.slug}__...'
        )
        if check:
            _print_check(screen, await client.check_mcp_server(server.id))


def _fields(
    header: list[str] | None,
    key_env: str | None,
    ask: list[str] | None,
    auto: list[str] | None,
    deny: list[str] | None,
    allow: list[str] | None,
    timeout: float | None,
    description: str | None,
    protocol: str | None,
) -> dict[str, Any]:
    """Return the fields of the request that the options set."""
    from perdure.domain.mcp_servers import McpProtocolMode

    fields: dict[str, Any] = {}
    if header:
        fields["headers"] = dict(map(_header, header))
    if key_env is not None:
        fields["api_key"] = _from_environment(key_env, "--key-env")
    if ask or auto:
        fields["approval"] = {**dict.fromkeys(auto or (), "auto"), **dict.fromkeys(ask or (), "ask")}
    if deny:
        fields["denied_tools"] = tuple(deny)
    if allow:
        fields["allowed_tools"] = tuple(allow)
    if timeout is not None:
        fields["tool_timeout_ms"] = max(1, round(timeout * 1000))
    if description is not None:
        fields["description"] = description
    if protocol is not None:
        if protocol not in get_args(McpProtocolMode):
            known = ", ".join(get_args(McpProtocolMode))
            raise typer.BadParameter(f"{protocol!r} is none of {known}", param_hint="--protocol")
        fields["protocol_mode"] = cast("McpProtocolMode", protocol)
    return fields


def _client_fields(
    acts_as: str | None,
    client_id: str | None,
    secret_env: str | None,
    issuer: str | None,
    scopes: list[str] | None,
) -> dict[str, Any]:
    """Return the fields about sign-ins that the options set."""
    from perdure.domain.mcp_servers import ActsAs

    if acts_as is not None and acts_as not in get_args(ActsAs):
        known = ", ".join(get_args(ActsAs))
        raise typer.BadParameter(f"{acts_as!r} is none of {known}", param_hint="--acts-as")
    fields: dict[str, Any] = {"acts_as": acts_as, "oauth_client_id": client_id, "oauth_issuer": issuer}
    if secret_env is not None:
        fields["oauth_client_secret"] = _from_environment(secret_env, "--oauth-client-secret-env")
    if scopes:
        fields["oauth_scopes"] = tuple(scopes)
    return {name: value for name, value in fields.items() if value is not None}


def _header(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark or not name.strip():
        raise typer.BadParameter("write NAME=VALUE, such as X-Team=blue", param_hint="--header")
    return name.strip(), value.strip()


def _from_environment(variable: str, option: str) -> str:
    key = os.environ.get(variable, "")
    if not key:
        raise typer.BadParameter(f"the variable {variable} is not set", param_hint=option)
    return key


@app.command()
def update(
    server: Server,
    name: Annotated[
        str | None, typer.Option(help="A new name; the tools keep theirs.", show_default=False)
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="URL", help="A new MCP endpoint.", show_default=False),
    ] = None,
    header: Headers = None,
    key_env: KeyVariable = None,
    ask: Ask = None,
    auto: Auto = None,
    deny: Deny = None,
    allow: Allow = None,
    timeout: Timeout = None,
    description: About = None,
    protocol: Protocol = None,
    status: Annotated[
        str | None,
        typer.Option(help="active or disabled; active restores an archived one.", show_default=False),
    ] = None,
    acts_as: Acts = None,
    client_id: ClientId = None,
    client_secret_env: ClientSecret = None,
    issuer: Issuer = None,
    scope: Scopes = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Change a server. An option that is given replaces the whole list or setting.

    Example: perdure mcp update issues --status disabled
    """
    fields = _fields(header, key_env, ask, auto, deny, allow, timeout, description, protocol)
    fields |= _client_fields(acts_as, client_id, client_secret_env, issuer, scope)
    fields |= {key: value for key, value in (("name", name), ("url", address), ("status", status)) if value}
    enter(_update(connect(url, token, org), server, fields, as_json))


async def _update(client: Client, ref: str, fields: dict[str, Any], as_json: bool) -> None:
    async with client:
        server = await client.update_mcp_server((await _find(client, ref)).id, **fields)
    if as_json:
        Screen().json(server)
    else:
        Screen().line(f"updated {server.id} ({server.name})")


@app.command("list")
def list_servers(
    archived: Annotated[bool, typer.Option("--archived", help="Include archived servers.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List the servers: those of the operator first, then your organization's."""
    enter(_list(connect(url, token, org), archived, as_json))


async def _list(client: Client, archived: bool, as_json: bool) -> None:
    async with client:
        servers = await client.list_mcp_servers(include_archived=archived or None)
    Screen().listing(servers, ("SERVER", "STATUS", "NAME", "TOOLS", "URL"), _row, as_json=as_json)


def _row(server: McpServer) -> tuple[str, ...]:
    address = server.url or "(a command of the operator)"
    return server.id, server.status, server.name, f"mcp_{server.slug}__*", address


@app.command()
def check(
    server: Server, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """Check that a server answers, and say what is wrong. The status is 1 if it does not.

    Example: perdure mcp check issues
    """
    if not enter(_check(connect(url, token, org), server, as_json)):
        raise typer.Exit(1)


async def _check(client: Client, ref: str, as_json: bool) -> bool:
    async with client:
        found = await client.check_mcp_server((await _find(client, ref)).id)
    screen = Screen()
    if as_json:
        screen.json(found)
    else:
        _print_check(screen, found)
    return found.ok


def _print_check(screen: Screen, found: McpCheck) -> None:
    if found.ok:
        server = " ".join(filter(None, (found.server_name, found.server_version))) or "the server"
        screen.line(
            ("ok", "green"),
            f": {server}, {found.tool_count} tools, protocol {found.protocol}, {found.latency_ms} ms",
        )
    elif found.error is not None:
        screen.line(("failed", "red"), f": {found.error.message}")
        if found.error.hint:
            screen.line(f"  {found.error.hint}")
    for note in (*found.notes, *found.faults):
        screen.line(f"  note: {note}")


@app.command()
def tools(
    server: Server, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List the tools that a server offers now, and whether they ask for approval.

    Example: perdure mcp tools issues
    """
    enter(_tools(connect(url, token, org), server, as_json))


async def _tools(client: Client, ref: str, as_json: bool) -> None:
    async with client:
        found = await client.list_mcp_server_tools((await _find(client, ref)).id)
    Screen().listing(found.data, ("TOOL", "MODE", "HINTS", "DESCRIPTION"), _tool, as_json=as_json)
    for fault in found.faults:
        Screen(stderr=True).line(f"note: {fault}")


def _tool(tool: McpToolInfo) -> tuple[str, ...]:
    hints = tool.annotations
    words = (
        ("read-only", hints.read_only_hint),
        ("destructive", hints.destructive_hint),
        ("idempotent", hints.idempotent_hint),
    )
    said = ", ".join(word for word, given in words if given)
    return tool.original_name, tool.mode, said, tool.description.partition("\n")[0][:200]


@app.command()
def remove(
    server: Server,
    for_good: Annotated[
        bool, typer.Option("--for-good", help="Delete it with its secrets, instead of archiving it.")
    ] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Archive a server, or delete it for good. Agents that use it go on without its tools.

    Example: perdure mcp remove issues
    """
    enter(_remove(connect(url, token, org), server, for_good))


async def _remove(client: Client, ref: str, for_good: bool) -> None:
    async with client:
        server = await _find(client, ref)
        await (client.destroy_mcp_server if for_good else client.delete_mcp_server)(server.id)
    if for_good:
        Screen().line(f"deleted {server.id} ({server.name})")
    else:
        Screen().line(
            f"archived {server.id} ({server.name}); `perdure mcp update ... --status active` restores it"
        )


async def _find(client: Client, ref: str) -> McpServer:
    """Return the server with this id, name or slug; an active one before an archived one."""
    servers = await client.list_mcp_servers(include_archived=True)
    found = [each for each in servers if ref in (each.id, each.name, each.slug)]
    live = [each for each in found if each.status != "archived"] or found
    if not live:
        raise CommandFailed(f"no MCP server is called {ref!r}; `perdure mcp list` lists them")
    if len(live) > 1:
        ids = ", ".join(each.id for each in live)
        raise CommandFailed(f"{len(live)} MCP servers are called {ref!r}; give one of the ids {ids}")
    return live[0]
