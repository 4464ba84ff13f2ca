"""The options of `perdure mcp add` and `update`, and the fields that they set."""

from __future__ import annotations

import os
from typing import Annotated, Any, get_args

import typer

Server = Annotated[str, typer.Argument(help="The server's id or name.", show_default=False)]
InSession = Annotated[
    str | None,
    typer.Option(
        "--session",
        metavar="ID",
        help="The session that has the server: for one that is defined in `mcpServers`.",
        show_default=False,
    ),
]
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
    bool,
    typer.Option("--sign-in", help="People sign in at the server (OAuth), each for their own sessions."),
]
ActsAsOption = Annotated[
    str | None,
    typer.Option(
        "--acts-as",
        metavar="WHO",
        help="With --sign-in, whose sign-in calls use: user, service or user_or_service.",
        show_default="user",
    ),
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
Questions = Annotated[
    str | None,
    typer.Option(
        "--questions",
        metavar="POLICY",
        help="Which questions of the server reach people: none, url or url_and_form.",
        show_default="none",
    ),
]
Deferred = Annotated[
    bool | None,
    typer.Option(
        "--search/--offer",
        help="Let models search the tools, or offer them.",
        show_default="offered, up to 30 tools",
    ),
]
Clear = Annotated[
    list[str] | None,
    typer.Option(
        "--clear",
        metavar="SETTING",
        help="Remove a setting: allow, deny, approval, header, key or description. Repeatable.",
        show_default=False,
    ),
]
CLEARED: dict[str, tuple[str, object]] = {
    "allow": ("allowed_tools", None),
    "deny": ("denied_tools", ()),
    "approval": ("approval", {}),
    "header": ("headers", None),
    "key": ("api_key", None),
    "description": ("description", None),
}
"""What `--clear` takes: the field, and its value without the setting."""


def fields_of(
    header: list[str] | None,
    key_env: str | None,
    ask: list[str] | None,
    auto: list[str] | None,
    deny: list[str] | None,
    allow: list[str] | None,
    timeout: float | None,
    description: str | None,
    protocol: str | None,
    sign_in: bool,
    acts_as: str | None,
    questions: str | None,
    search: bool | None,
) -> dict[str, Any]:
    """Return the fields of the request that the options set."""
    from perdure.domain.mcp_servers import ActsAs, ElicitationPolicy, McpProtocolMode

    fields: dict[str, Any] = {
        "protocol_mode": _one_of(get_args(McpProtocolMode), protocol, "--protocol"),
        "acts_as": _one_of(get_args(ActsAs), acts_as or ("user" if sign_in else None), "--acts-as"),
        "elicitation_policy": _one_of(get_args(ElicitationPolicy), questions, "--questions"),
        "auth_mode": "o_auth" if sign_in else None,
        "description": description,
        "deferred": search,
        "tool_timeout_ms": None if timeout is None else max(1, round(timeout * 1000)),
        "denied_tools": tuple(deny) if deny else None,
        "allowed_tools": tuple(allow) if allow else None,
        "api_key": None if key_env is None else _from_environment(key_env, "--key-env"),
        "headers": dict(map(_header, header)) if header else None,
    }
    if ask or auto:
        fields["approval"] = {**dict.fromkeys(auto or (), "auto"), **dict.fromkeys(ask or (), "ask")}
    return {name: value for name, value in fields.items() if value is not None}


def client_fields(
    client_id: str | None,
    secret_env: str | None,
    issuer: str | None,
    scopes: list[str] | None,
) -> dict[str, Any]:
    """Return the fields about the client of sign-ins that the options set."""
    fields: dict[str, Any] = {"oauth_client_id": client_id, "oauth_issuer": issuer}
    if secret_env is not None:
        fields["oauth_client_secret"] = _from_environment(secret_env, "--oauth-client-secret-env")
    if scopes:
        fields["oauth_scopes"] = tuple(scopes)
    return {name: value for name, value in fields.items() if value is not None}


def cleared(settings: list[str] | None) -> dict[str, object]:
    """Return the fields of the request that remove settings."""
    return dict(CLEARED[_one_of(tuple(CLEARED), each, "--clear") or each] for each in settings or ())


def _one_of(known: tuple[str, ...], given: str | None, option: str) -> str | None:
    if given is not None and given not in known:
        raise typer.BadParameter(f"{given!r} is none of {', '.join(known)}", param_hint=option)
    return given


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
