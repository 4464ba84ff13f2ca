"""`perdure mcp ...`: servers of the Model Context Protocol, whose tools agents use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter, pairs_of
from perdure.cli.connections import sign_in as sign_in_at
from perdure.cli.mcp_options import (
    About,
    ActsAsOption,
    Allow,
    Ask,
    Auto,
    Clear,
    ClientId,
    ClientSecret,
    Deferred,
    Deny,
    Headers,
    InSession,
    Issuer,
    KeyVariable,
    Protocol,
    Questions,
    Scopes,
    Server,
    SignIn,
    Timeout,
    cleared,
    client_fields,
    fields_of,
)
from perdure.cli.sessions import SessionId
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.mcp_servers import McpServer
    from perdure.domain.mcp_views import McpCheck, McpPromptInfo, McpToolInfo

app = typer.Typer(
    help="Register MCP servers, whose tools agents can use.",
    epilog="Start with `perdure mcp add issues https://mcp.example.com/mcp --key-env ISSUES_KEY`.",
    no_args_is_help=True,
)


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
    acts_as: ActsAsOption = None,
    questions: Questions = None,
    search: Deferred = None,
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
    fields = fields_of(
        header, key_env, ask, auto, deny, allow, timeout, description, protocol, sign_in, acts_as, questions,
        search,
    )  # fmt: skip
    fields |= client_fields(client_id, client_secret_env, issuer, scope)
    enter(_add(connect(url, token, org), name, address, fields, not no_check, as_json))


async def _add(
    client: Client, name: str, address: str, fields: dict[str, Any], check: bool, as_json: bool
) -> None:
    async with client:
        known = [each for each in await client.list_mcp_servers(search=name) if each.name == name]
        if known:
            raise CommandFailed(
                f"an MCP server is called {name!r} already ({known[0].id}): choose another name, or "
                "change that one with `perdure mcp update`"
            )
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
            found = await client.check_mcp_server(server.id)
            _print_check(screen, found)
            if not found.ok:
                screen.line(
                    "  It is registered. Correct it with `perdure mcp update`, then `perdure mcp check`."
                )


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
    sign_in: SignIn = False,
    acts_as: ActsAsOption = None,
    questions: Questions = None,
    search: Deferred = None,
    client_id: ClientId = None,
    client_secret_env: ClientSecret = None,
    issuer: Issuer = None,
    scope: Scopes = None,
    clear: Clear = None,
    status: Annotated[
        str | None,
        typer.Option(help="active or disabled; active restores an archived one.", show_default=False),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Change a server. An option that is given replaces the whole list or setting.

    Example: perdure mcp update issues --status disabled
    """
    fields = fields_of(
        header, key_env, ask, auto, deny, allow, timeout, description, protocol, sign_in, acts_as, questions,
        search,
    )  # fmt: skip
    fields |= client_fields(client_id, client_secret_env, issuer, scope)
    fields |= cleared(clear)
    fields |= {key: value for key, value in (("name", name), ("url", address), ("status", status)) if value}
    if not fields:
        raise typer.BadParameter("nothing to change: give an option, such as --endpoint URL")
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


_ADVICE = {
    "sign_in_required": "Give --key-env or --header with a credential that it accepts, or --sign-in if "
    "people sign in there (OAuth)."
}
"""By code: what to do, in words of this command, if the server's own words are about fields."""


def _print_check(screen: Screen, found: McpCheck) -> None:
    if found.ok:
        server = " ".join(filter(None, (found.server_name, found.server_version))) or "the server"
        count = "1 tool" if found.tool_count == 1 else f"{found.tool_count} tools"
        screen.line(
            ("ok", "green"),
            f": {server}, {count}, protocol {found.protocol}, {found.latency_ms} ms",
        )
    elif found.error is not None:
        screen.line(("failed", "red"), f": {found.error.message}")
        advice = _ADVICE.get(found.error.code) or found.error.hint
        if advice:
            screen.line(f"  {advice}")
    for note in (*found.notes, *found.faults):
        screen.line(f"  note: {note}")


@app.command()
def tools(
    server: Server,
    session: InSession = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List the tools that a server offers now, and whether they ask for approval.

    Example: perdure mcp tools issues
    """
    enter(_tools(connect(url, token, org), server, session, as_json))


async def _tools(client: Client, ref: str, session: str | None, as_json: bool) -> None:
    async with client:
        if session is None:
            found = await client.list_mcp_server_tools((await _find(client, ref)).id)
        else:
            found = await client.list_session_mcp_tools(session, ref)
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
    mode = "ask (changed)" if tool.changed and tool.mode != "deny" else tool.mode
    return tool.original_name, mode, said, tool.description.partition("\n")[0][:200]


@app.command()
def accept(
    server: Server,
    tool: Annotated[
        str, typer.Argument(help="The tool's name at the server, or * for all.", show_default=False)
    ],
    session: InSession = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Accept a tool whose definition has changed, so that its calls ask for approval no more for that.

    Look at it first: perdure mcp tools issues --json
    """
    enter(_accept(connect(url, token, org), server, session, tool))


async def _accept(client: Client, ref: str, session: str | None, tool: str) -> None:
    async with client:
        server_id = "" if session else (await _find(client, ref)).id
        offered = (
            await client.list_session_mcp_tools(session, ref)
            if session
            else await client.list_mcp_server_tools(server_id)
        )
        changed = [each for each in offered.data if each.changed and tool in ("*", each.original_name)]
        if not changed and tool != "*" and tool not in [each.original_name for each in offered.data]:
            raise CommandFailed(f"{ref} has no tool {tool!r}; `perdure mcp tools` lists them")
        for each in changed:
            if session:
                await client.accept_session_mcp_tool(session, ref, each.original_name, each.definition)
            else:
                await client.accept_mcp_tool(server_id, each.original_name, each.definition)
    names = ", ".join(each.original_name for each in changed)
    Screen().line(f"accepted {names}" if names else "nothing to accept: no such tool has changed")


@app.command()
def prompts(
    server: Server, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List the prompts that a server offers now, with their arguments.

    Example: perdure mcp prompts issues
    """
    enter(_prompts(connect(url, token, org), server, as_json))


async def _prompts(client: Client, ref: str, as_json: bool) -> None:
    async with client:
        found = await client.list_mcp_server_prompts((await _find(client, ref)).id)
    Screen().listing(found, ("PROMPT", "ARGUMENTS", "DESCRIPTION"), _prompt, as_json=as_json)


def _prompt(prompt: McpPromptInfo) -> tuple[str, ...]:
    arguments = ", ".join(each.name if each.required else f"[{each.name}]" for each in prompt.arguments)
    return prompt.name, arguments, prompt.description.partition("\n")[0][:200]


@app.command("prompt")
def post_prompt(
    session_id: SessionId,
    server: Annotated[
        str, typer.Argument(help="One of the session's servers: its name or id.", show_default=False)
    ],
    name: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt's name.", show_default=False)],
    argument: Annotated[
        list[str] | None,
        typer.Option(
            "--argument",
            "-a",
            metavar="NAME=TEXT",
            help="An argument of the prompt; repeatable.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Post a prompt of one of a session's servers as a message, which starts a turn.

    Example: perdure mcp prompt SESSION issues triage --argument project=web
    """
    arguments = pairs_of(argument, "--argument")
    enter(_post_prompt(connect(url, token, org), session_id, server, name, arguments, as_json))


async def _post_prompt(
    client: Client, session_id: str, server: str, name: str, arguments: dict[str, str], as_json: bool
) -> None:
    async with client:
        message = await client.post_mcp_prompt(session_id, server=server, name=name, arguments=arguments)
    if as_json:
        Screen().json(message)
    else:
        Screen().line(f"posted {message.id}; `perdure sessions tail {session_id}` follows the answer")


app.command("sign-in")(sign_in_at)


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
        Screen().line(f"archived {server.name}; `perdure mcp update {server.id} --status active` restores it")


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
