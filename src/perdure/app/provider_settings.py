"""What a provider is set up with: address, key, headers, options.

Checked before it is kept, sealed where it is secret.
"""

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
"""Headers that say how a request is sent: they are the driver's."""

_SECRET_PARAMETER = re.compile(
    r"key|token|secret|password|passwd|auth|credential|sig$|signature", re.IGNORECASE
)


class Settings(Struct, frozen=True):
    """What a provider's driver is made from, before the environment."""

    provider_type: str
    base_url: str | None = None
    secrets: ProviderSecrets = ProviderSecrets()
    options: ProviderOptions = ProviderOptions()


def settings_of(body: CreateProvider) -> Settings:
    """The settings of a new provider.

    Raises:
        InvalidInput: they cannot be used; `field` says which.
    """
    key = _given_key(body.provider_type, body.api_key, body.credentials)
    settings = Settings(
        body.provider_type, body.base_url, ProviderSecrets(key if isinstance(key, str) else None)
    )
    if body.options is not None:
        settings = _with_options(settings, body.options)
    check(settings)
    return settings


def changed_settings(before: Settings, body: UpdateProvider) -> Settings:
    """The settings after a change.

    Raises:
        InvalidInput: they cannot be used, or the change would send a stored secret to another place.
    """
    after = before
    if isinstance(body.provider_type, str):
        after = msgspec.structs.replace(after, provider_type=body.provider_type)
    if body.base_url is not UNSET:
        after = msgspec.structs.replace(after, base_url=body.base_url)
    key = _given_key(after.provider_type, body.api_key, body.credentials)
    if key is not UNSET:
        after = msgspec.structs.replace(after, secrets=msgspec.structs.replace(after.secrets, api_key=key))
    if body.options is None:
        after = msgspec.structs.replace(
            after, options=ProviderOptions(), secrets=msgspec.structs.replace(after.secrets, headers={})
        )
    elif body.options is not UNSET:
        after = _with_options(after, body.options)
    check(after)
    if _place(before) != _place(after):
        _keep_in_place(before.secrets, body)
    return after


def check(settings: Settings) -> None:
    """Accept only what a driver can be made from.

    Raises:
        InvalidInput: `field` says what cannot be used.
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
    if "@" in parts.netloc or any(_SECRET_PARAMETER.search(name) for name in names):
        raise InvalidInput(
            "`base_url` can be read by everybody in the organization:"
            " put credentials into `api_key` or `options.headers`",
            code="secret_in_url",
            field="base_url",
        )


def _given_key(
    provider_type: str,
    key: str | None | UnsetType,
    credentials: Credentials | None | UnsetType,
) -> str | None | UnsetType:
    """The key that a request gives: a text, None to remove it, UNSET when it says nothing."""
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
                    f"`credentials.{name}` is not asked for; known: {known}",
                    code="unknown_credential",
                    field=f"credentials.{name}",
                )
        found = credentials.get("api_key", key)
        if isinstance(key, str) and found != key:
            raise InvalidInput(
                "`api_key` and `credentials.api_key` differ: give one of them", field="credentials.api_key"
            )
    elif isinstance(key, str):
        found = key
    else:
        found = None if key is None or credentials is None else UNSET
    if isinstance(found, str):
        found = found.strip()
        if not found:
            raise InvalidInput(
                "`api_key` is blank; leave it out, or send null to remove the key", field="api_key"
            )
    return found


def _with_options(settings: Settings, given: SetProviderOptions) -> Settings:
    told = {
        name: getattr(given, name)
        for name in ProviderOptions.__struct_fields__
        if getattr(given, name) is not UNSET
    }
    options = msgspec.structs.replace(settings.options, **told)
    headers = dict(settings.secrets.headers)
    if given.headers is None:
        headers = {}
    elif given.headers is not UNSET:
        for name, value in given.headers.items():
            headers = {known: text for known, text in headers.items() if known.lower() != name.lower()}
            if value is not None:
                headers[name] = _checked_header(name, value)
    if len(headers) > MAX_HEADERS:
        raise InvalidInput(f"a provider may have {MAX_HEADERS} headers", field="options.headers")
    secrets = ProviderSecrets(settings.secrets.api_key, headers)
    return msgspec.structs.replace(settings, options=options, secrets=secrets)


def _checked_header(name: str, value: str) -> str:
    if name.lower() in _RESERVED_HEADERS:
        raise InvalidInput(f"the header {name!r} is set by the driver", field="options.headers")
    if value != value.strip():
        raise InvalidInput(f"the header {name!r} begins or ends with a space", field="options.headers")
    return value


def _place(settings: Settings) -> tuple[str, str]:
    """Where the secrets go: the origin of the address, or the vendor."""
    if settings.base_url is None:
        kind = KINDS.get(settings.provider_type)
        return "vendor", (kind.environment if kind is not None else None) or settings.provider_type
    parts = urlsplit(settings.base_url)
    return parts.scheme.lower(), parts.netloc.lower()


def _keep_in_place(stored: ProviderSecrets, body: UpdateProvider) -> None:
    """Refuse to send stored secrets to another place: whoever changes the address may not read them."""
    told = body.options.headers if isinstance(body.options, SetProviderOptions) else UNSET
    kept = (
        body.api_key is UNSET
        and (body.credentials is UNSET or body.credentials == {})
        and stored.api_key is not None
    )
    if stored.headers and body.options is not None and told is not None:
        given = {name.lower() for name in told} if isinstance(told, dict) else set()
        kept = kept or any(name.lower() not in given for name in stored.headers)
    if kept:
        raise InvalidInput(
            "the stored key and headers belong to the old address: give them again (or null)"
            " together with the new one",
            code="secret_would_move",
            field="base_url",
        )


def form_of(kind: DriverKind, *, in_environment: bool = False) -> CredentialForm:
    """What a person has to fill in for a type of provider.

    Less when the server's environment holds the key.
    """
    if kind.environment is None:
        return CredentialForm((), kind.help)
    words = (
        f"Kept encrypted, never shown again. Without one, `{kind.environment}`"
        " of the server's environment is used."
    )
    key = FormField("api_key", "API key", "password", kind.key_needed and not in_environment, words)
    return CredentialForm((key,), kind.help)
