"""A provider's settings (address, key, headers, options), merged from requests and checked before storing."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import UNSET, Struct, UnsetType

from perdure.domain.errors import InvalidInput
from perdure.domain.providers import (
    MAX_HEADERS,
    CreateProvider,
    CredentialForm,
    Credentials,
    FormField,
    ProviderOptions,
    ProviderSecrets,
    SetProviderOptions,
    UpdateProvider,
)
from perdure.llm.http import Http
from perdure.llm.registry import KINDS, DriverKind, config_of, make_driver

_RESERVED_HEADERS = frozenset(
    {
        "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "cookie",
        "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Headers about the transport of a request, which only the driver sets."""

SECRET_PARAMETER = re.compile(
    r"key|token|secret|password|passwd|auth|credential|sig$|signature", re.IGNORECASE
)


class Settings(Struct, frozen=True):
    """The settings from which a provider's driver is created, without those from the environment."""

    provider_type: str
    base_url: str | None = None
    secrets: ProviderSecrets = ProviderSecrets()
    options: ProviderOptions = ProviderOptions()


def settings_of(body: CreateProvider) -> Settings:
    """Return the settings of a new provider.

    Raises:
        InvalidInput: a setting is not valid; `field` names it.
    """
    key = _requested_key(body.provider_type, body.api_key, body.credentials)
    settings = Settings(
        body.provider_type, body.base_url, ProviderSecrets(key if isinstance(key, str) else None)
    )
    if body.options is not None:
        settings = _with_options(settings, body.options)
    check(settings)
    return settings


def changed_settings(before: Settings, body: UpdateProvider) -> Settings:
    """Return the settings after a change.

    Raises:
        InvalidInput: a setting is not valid, or the change would send a stored secret to another address.
    """
    after = before
    if isinstance(body.provider_type, str):
        after = msgspec.structs.replace(after, provider_type=body.provider_type)
    if body.base_url is not UNSET:
        after = msgspec.structs.replace(after, base_url=body.base_url)
    key = _requested_key(after.provider_type, body.api_key, body.credentials)
    if key is not UNSET:
        after = msgspec.structs.replace(after, secrets=msgspec.structs.replace(after.secrets, api_key=key))
    if body.options is None:
        after = msgspec.structs.replace(
            after, options=ProviderOptions(), secrets=msgspec.structs.replace(after.secrets, headers={})
        )
    elif body.options is not UNSET:
        after = _with_options(after, body.options)
    check(after)
    if _destination(before) != _destination(after):
        _refuse_to_move_secrets(before.secrets, body)
    return after


def check(settings: Settings) -> None:
    """Check that a driver can be created from these settings.

    Raises:
        InvalidInput: a setting is not valid; `field` names it.
    """
    if settings.base_url is not None:
        _check_address(settings.base_url)
    make_driver(
        config_of(settings.provider_type, settings.base_url, settings.secrets, settings.options, {}),
        Http(),
    )


def _check_address(base_url: str) -> None:
    try:
        parts = urlsplit(base_url)
        names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    except ValueError:
        raise InvalidInput("`base_url` must be an http or https URL", field="base_url") from None
    if "@" in parts.netloc or any(SECRET_PARAMETER.search(name) for name in names):
        raise InvalidInput(
            "`base_url` contains credentials, and all members of the organization can read it:"
            " move them to `api_key` or `options.headers`",
            code="secret_in_url",
            field="base_url",
        )


def _requested_key(
    provider_type: str,
    key: str | None | UnsetType,
    credentials: Credentials | None | UnsetType,
) -> str | None | UnsetType:
    """Return the key in a request: a string, None to remove it, UNSET if the request has none."""
    if isinstance(credentials, dict):
        names = (
            {field.name for field in form_of(KINDS[provider_type]).fields}
            if provider_type in KINDS
            else set()
        )
        for name in credentials:
            if name not in names:
                known = ", ".join(sorted(names)) or "none"
                raise InvalidInput(
                    f"`credentials.{name}` is not a credential of {provider_type!r}; it has: {known}",
                    code="unknown_credential",
                    field=f"credentials.{name}",
                )
        requested = credentials.get("api_key", key)
        if isinstance(key, str) and requested != key:
            raise InvalidInput(
                "`api_key` and `credentials.api_key` differ: send only one", field="credentials.api_key"
            )
    elif isinstance(key, str):
        requested = key
    else:
        requested = None if key is None or credentials is None else UNSET
    if isinstance(requested, str):
        requested = requested.strip()
        if not requested:
            raise InvalidInput(
                "`api_key` is blank: omit it to keep the stored key, or send null to remove it",
                field="api_key",
            )
    return requested


def _with_options(settings: Settings, body: SetProviderOptions) -> Settings:
    """Return the settings with the options and headers that the body contains."""
    changes = {
        name: getattr(body, name)
        for name in ProviderOptions.__struct_fields__
        if getattr(body, name) is not UNSET
    }
    options = msgspec.structs.replace(settings.options, **changes)
    headers = dict(settings.secrets.headers)
    if body.headers is None:
        headers = {}
    elif body.headers is not UNSET:
        for name, value in body.headers.items():
            headers = {known: text for known, text in headers.items() if known.lower() != name.lower()}
            if value is not None:
                headers[name] = _checked_header(name, value)
    if len(headers) > MAX_HEADERS:
        raise InvalidInput(
            f"a provider has at most {MAX_HEADERS} headers, not {len(headers)}", field="options.headers"
        )
    secrets = ProviderSecrets(settings.secrets.api_key, headers)
    return msgspec.structs.replace(settings, options=options, secrets=secrets)


def _checked_header(name: str, value: str) -> str:
    if name.lower() in _RESERVED_HEADERS:
        raise InvalidInput(f"the header {name!r} is set by the driver: remove it", field="options.headers")
    if value != value.strip():
        raise InvalidInput(
            f"the value of the header {name!r} starts or ends with white space: remove it",
            field="options.headers",
        )
    return value


def _destination(settings: Settings) -> tuple[str, str]:
    """Return where the secrets are sent: the origin of the address, or the vendor."""
    if settings.base_url is None:
        kind = KINDS.get(settings.provider_type)
        return "vendor", (kind.environment if kind is not None else None) or settings.provider_type
    parts = urlsplit(settings.base_url)
    return parts.scheme.lower(), parts.netloc.lower()


def _refuse_to_move_secrets(stored: ProviderSecrets, body: UpdateProvider) -> None:
    """Refuse a change that would send stored secrets to another address.

    Otherwise an admin could read them by pointing the provider at a server of their own.
    """
    new_headers = body.options.headers if isinstance(body.options, SetProviderOptions) else UNSET
    keeps_secrets = (
        body.api_key is UNSET
        and (body.credentials is UNSET or body.credentials == {})
        and stored.api_key is not None
    )
    if stored.headers and body.options is not None and new_headers is not None:
        replaced = {name.lower() for name in new_headers} if isinstance(new_headers, dict) else set()
        keeps_secrets = keeps_secrets or any(name.lower() not in replaced for name in stored.headers)
    if keeps_secrets:
        raise InvalidInput(
            "a stored API key or header is never sent to a new address: send them again, or null to remove"
            " them, together with the new address",
            code="secret_would_move",
            field="base_url",
        )


def form_of(kind: DriverKind, *, in_environment: bool = False) -> CredentialForm:
    """Return the form of credentials for a type of provider.

    The key is optional if the server's environment contains it.
    """
    if not kind.takes_key:
        return CredentialForm((), kind.help)
    help_text = "Stored encrypted and never shown again."
    if kind.environment is not None:
        help_text += f" Without a key, the server uses its environment variable `{kind.environment}`."
    key = FormField("api_key", "API key", "password", kind.key_needed and not in_environment, help_text)
    return CredentialForm((key,), kind.help)
