"""A registered MCP server's settings, merged from requests and checked before storing."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Struct, UnsetType

from perdure.app.mcp_checks import check_header_name, check_headers, check_transport, is_shown
from perdure.domain.errors import InvalidInput
from perdure.domain.mcp_servers import (
    HIDDEN,
    CreateMcpServer,
    McpAuthMode,
    McpClient,
    McpProtocolMode,
    McpRules,
    UpdateMcpServer,
)
from perdure.store.mcp_servers import McpSecrets, McpServerRow


class McpSettings(Struct, frozen=True):
    """What requests set.

    Attributes:
        shown: the headers whose values may be read back: they contain placeholders.
        sealed: the headers whose values are encrypted.
    """

    url: str
    auth_mode: McpAuthMode
    protocol_mode: McpProtocolMode
    rules: McpRules
    api_key: str | None = None
    shown: dict[str, str] = {}
    sealed: dict[str, str] = {}
    client: McpClient = McpClient()
    client_secret: str | None = None

    @property
    def secrets(self) -> McpSecrets:
        """What is stored encrypted."""
        return McpSecrets(self.api_key, self.sealed, self.client_secret)


def settings_of(body: CreateMcpServer) -> McpSettings:
    """Return the settings of a new server. Raises InvalidInput if one is not valid."""
    check_transport(body.transport_type, "transport_type")
    if body.url is UNSET:  # said after what is wrong with `transport_type`: a command has no URL
        raise InvalidInput(
            "`url` is missing: give the address of the server's MCP endpoint, which often ends in /mcp",
            field="url",
        )
    given = {name: getattr(body, name) for name in McpRules.__struct_fields__}
    rules = msgspec.structs.replace(McpRules(), **given)
    keyed: McpAuthMode = "none" if body.api_key is None else "api_key"
    auth_mode = body.auth_mode or (keyed if body.oauth_client_id is None else "o_auth")
    settings = McpSettings(
        body.url.strip(),
        auth_mode,
        body.protocol_mode or "auto",
        rules,
        _key(body.api_key, "api_key"),
        client=McpClient(body.oauth_client_id, body.oauth_issuer, body.oauth_scopes),
        client_secret=_key(body.oauth_client_secret, "oauth_client_secret"),
    )
    return _checked(_with_headers(settings, body.headers or {}, {}))


def stored_settings(row: McpServerRow, secrets: McpSecrets) -> McpSettings:
    """Return the settings of a stored server."""
    shown = {name: value for name, value in row.shown_headers().items() if name not in secrets.headers}
    return McpSettings(
        row.url,
        row.auth_mode,
        row.protocol_mode,
        row.rules_struct(),
        secrets.api_key,
        shown,
        secrets.headers,
        msgspec.structs.replace(row.client(), secret_set=False),
        secrets.client_secret,
    )


def changed_settings(before: McpSettings, body: UpdateMcpServer) -> McpSettings:
    """Return the settings after a change.

    Raises:
        InvalidInput: a setting is not valid, or the change would send a stored secret to another host.
    """
    check_transport(body.transport_type, "transport_type")
    rules = {
        name: getattr(body, name) for name in McpRules.__struct_fields__ if getattr(body, name) is not UNSET
    }
    plain = {
        name: getattr(body, name)
        for name in ("auth_mode", "protocol_mode")
        if getattr(body, name) is not UNSET
    }
    after = msgspec.structs.replace(before, rules=msgspec.structs.replace(before.rules, **rules), **plain)
    if body.url is not UNSET:
        after = msgspec.structs.replace(after, url=body.url.strip())
    if body.api_key is not UNSET:
        after = msgspec.structs.replace(after, api_key=_key(body.api_key, "api_key"))
    if body.headers is not UNSET:
        after = _with_headers(after, body.headers or {}, before.sealed)
    after = _with_client(after, body)
    if _origin(before.url) != _origin(after.url):
        if body.oauth_issuer is UNSET:
            after = msgspec.structs.replace(after, client=msgspec.structs.replace(after.client, issuer=None))
        _refuse_to_move_secrets(before, body)
    return _checked(after)


def _with_client(settings: McpSettings, body: UpdateMcpServer) -> McpSettings:
    """Return the settings with the changes of the registered client.

    A new id, and a new secret, are of no issuer yet, unless the request names it.

    Raises:
        InvalidInput: a stored secret would go to another issuer.
    """
    client, secret = settings.client, settings.client_secret
    if body.oauth_scopes is not UNSET:
        client = msgspec.structs.replace(client, scopes=body.oauth_scopes)
    if body.oauth_client_id is not UNSET and body.oauth_client_id != client.client_id:
        client = msgspec.structs.replace(client, client_id=body.oauth_client_id, issuer=None)
        secret = None
    if body.oauth_client_secret is not UNSET:
        secret = _key(body.oauth_client_secret, "oauth_client_secret")
        client = msgspec.structs.replace(client, issuer=None)
    if body.oauth_issuer is not UNSET and body.oauth_issuer != client.issuer:
        if secret is not None and client.issuer is not None:
            raise InvalidInput(
                "a stored client secret is never sent to another issuer: send `oauth_client_secret` again, "
                "or null to remove it, together with the new issuer",
                code="secret_would_move",
                field="oauth_issuer",
            )
        client = msgspec.structs.replace(client, issuer=body.oauth_issuer)
    return msgspec.structs.replace(settings, client=client, client_secret=secret)


def _key(text: str | None, field: str) -> str | None:
    if text is None:
        return None
    key = text.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise InvalidInput(
            f"`{field}` is blank, or has characters that no header can carry: omit it to keep the old one, "
            "or send null to remove it",
            field=field,
        )
    return key


def _with_headers(settings: McpSettings, given: dict[str, str], stored: dict[str, str]) -> McpSettings:
    """Return the settings with exactly these headers; `***` stands for the stored value of the same name."""
    known = {name.lower(): value for name, value in stored.items()}
    full = {
        name: known.get(name.lower(), value) if value == HIDDEN else value for name, value in given.items()
    }
    for name, value in full.items():
        if value == HIDDEN:
            raise InvalidInput(
                f"`headers`: no value is stored for {name[:40]!r}, so `{HIDDEN}` cannot stand for it: send "
                "the value",
                code="invalid_header",
                field="headers",
            )
    check_headers(full, "headers")
    return msgspec.structs.replace(
        settings,
        shown={name: value for name, value in full.items() if is_shown(value)},
        sealed={name: value for name, value in full.items() if not is_shown(value)},
    )


def _checked(settings: McpSettings) -> McpSettings:
    names = {name.lower() for name in (*settings.shown, *settings.sealed)}
    if settings.api_key is not None and "authorization" in names:
        raise InvalidInput(
            "`headers` has Authorization, in which `api_key` is sent: remove one of them",
            code="invalid_header",
            field="headers",
        )
    _check_client(settings)
    key_header = settings.rules.effect_key_header
    if key_header is not None:
        check_header_name(key_header, "effect_key_header")
        if key_header.lower() in names | {"authorization"}:
            raise InvalidInput(
                f"`effect_key_header`: {key_header!r} has another value already: choose another header",
                code="invalid_header",
                field="effect_key_header",
            )
    return settings


def _check_client(settings: McpSettings) -> None:
    """Check the registered client. Raises InvalidInput."""
    client, field, why = settings.client, "oauth_client_id", ""
    if client.client_id is not None and not re.fullmatch(r"[\x20-\x7e]+", client.client_id):
        why = "it has characters other than printable ASCII"
    elif client.client_id is None and settings.client_secret is not None:
        field, why = "oauth_client_secret", "it needs `oauth_client_id`"
    elif client.issuer is not None and urlsplit(client.issuer).scheme not in ("http", "https"):
        field, why = "oauth_issuer", "it must be the URL of an authorization server"
    if why:
        raise InvalidInput(f"`{field}`: {why}", field=field)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower()


def _refuse_to_move_secrets(before: McpSettings, body: UpdateMcpServer) -> None:
    """Refuse a change that would send stored secrets to another host.

    Otherwise an admin could read them by pointing the server at a host of their own.
    """
    keeps_key = before.api_key is not None and body.api_key is UNSET
    keeps_headers = bool(before.sealed) and (body.headers is UNSET or HIDDEN in (body.headers or {}).values())
    moves = body.oauth_client_secret is UNSET and body.oauth_client_id in (UNSET, before.client.client_id)
    if keeps_key or keeps_headers or (before.client_secret is not None and moves):
        raise InvalidInput(
            "a stored API key, client secret or header is never sent to a new host: send them again, "
            "or null to remove them, together with the new URL",
            code="secret_would_move",
            field="url",
        )


def is_same(body: UpdateMcpServer) -> bool:
    """Whether the body changes nothing."""
    return all(isinstance(getattr(body, name), UnsetType) for name in body.__struct_fields__)
