"""Checks of providers' API keys: the vendor is asked for its list of models, outside any transaction.

A key that the vendor refuses is not stored. One that cannot be checked is: the vendor may be down, and
servers in closed networks may be set up before they run.
"""

from __future__ import annotations

import asyncio
import re
import time

from msgspec import Struct

from perdure.app.context import App
from perdure.app.provider_settings import Settings, check, settings_of
from perdure.domain.accounts import Caller, require
from perdure.domain.errors import InvalidInput, ModelError
from perdure.domain.ids import ProviderId
from perdure.domain.providers import (
    CheckCredentials,
    CreateProvider,
    KeyCheck,
    KeyCheckError,
    KeyStatus,
    ProviderSecrets,
)
from perdure.domain.times import Micros, to_rfc3339
from perdure.llm.driver import Driver
from perdure.llm.registry import KINDS, config_of
from perdure.store.database import Changes, Tx
from perdure.store.providers import ProviderRow, get_provider, open_secrets, update_provider

CHECK_TIMEOUT = 5.0
"""Maximum duration of a check, in seconds."""

MAX_MESSAGE = 500
"""Characters of a vendor's message that are passed on."""

_SCOPES = re.compile(r"\bscopes?\b", re.IGNORECASE)
"""A key with few permissions may be refused the list of models, and may still call them."""


class Checked(Struct, frozen=True):
    """The result of a check of settings that are to be stored.

    Attributes:
        settings: what was checked. The result says nothing about others.
        status: what the vendor said of the key.
        at: when it was asked.
    """

    settings: Settings
    status: KeyStatus
    at: Micros


async def check_new_key(app: App, settings: Settings) -> Checked:
    """Check the key in settings that are to be stored.

    Raises:
        InvalidInput: the vendor refuses the key.
    """
    found = await _check(app, settings)
    if found.key_status == "refused":
        said = found.error.message if found.error is not None else ""
        raise InvalidInput(
            f"the provider refuses `api_key`, so nothing was stored: {said}",
            code="provider_key_refused",
            field="api_key",
        )
    return Checked(settings, found.key_status or "unchecked", app.now())


def key_columns(before: Settings | None, after: Settings, checked: Checked | None) -> Changes:
    """Return the columns that say what is known of the key in the settings that are stored.

    Args:
        before: the settings until now; None for a new provider.
        after: the settings from now on.
        checked: the result of the check of this request; None if it made none.
    """
    if after.secrets.api_key is None:
        return {"key_status": None, "key_checked_at": None}
    if checked is not None and checked.settings == after:
        return {"key_status": checked.status, "key_checked_at": checked.at}
    return {} if before == after else {"key_status": "unchecked", "key_checked_at": None}


async def check_credentials(app: App, caller: Caller, body: CheckCredentials) -> KeyCheck:
    """Check credentials that are not stored. Raises InvalidInput: a setting is not valid."""
    require(caller, "admin")
    fields = CreateProvider(
        "unnamed", body.provider_type, base_url=body.base_url, api_key=body.api_key, options=body.options
    )
    return await _check(app, settings_of(fields))


async def check_provider(app: App, caller: Caller, provider_id: ProviderId) -> KeyCheck:
    """Check a stored provider, and store what its vendor says of its key.

    Raises:
        InvalidInput: the provider has no key, and its vendor's own address needs one; or a setting that an
            older release stored is not valid any more.
        NotFound: there is no such provider.
    """
    require(caller, "admin")

    async def read(tx: Tx) -> tuple[ProviderRow, ProviderSecrets]:
        row = await get_provider(tx, caller.organization_id, provider_id)
        return row, await open_secrets(app.vault, tx, row)

    row, secrets = await app.database.read(read)
    settings = Settings(row.provider_type, row.base_url, secrets, row.option_struct())
    check(settings)
    found = await _check(app, settings, app.drivers.driver_for(row, secrets))
    if not row.api_key_set:
        return found
    columns = key_columns(None, settings, Checked(settings, found.key_status or "unchecked", app.now()))

    async def store(tx: Tx) -> None:
        now = await get_provider(tx, row.org_id, row.id, lock=True)
        if _checked_columns(now) == _checked_columns(row):
            await update_provider(tx, row.org_id, row.id, columns)

    await app.database.write(store)
    return found


def _checked_columns(row: ProviderRow) -> tuple[object, ...]:
    """What a check of a provider is about."""
    return row.secrets, row.provider_type, row.base_url, row.options


async def _check(app: App, settings: Settings, driver: Driver | None = None) -> KeyCheck:
    """Ask the provider for its list of models.

    Args:
        driver: the driver of the stored provider, which may use a key of the environment; by default, one
            with these settings.
    """
    started, at = time.monotonic(), to_rfc3339(app.now())
    kind = KINDS.get(settings.provider_type)
    may_use_ours = settings.base_url is None and kind is not None and kind.environment is not None
    has_key = settings.secrets.api_key is not None or may_use_ours

    def result(status: KeyStatus, error: KeyCheckError | None, models: int | None = None) -> KeyCheck:
        took = round((time.monotonic() - started) * 1000)
        return KeyCheck(models is not None, at, took, status if has_key else None, models, error)

    if kind is None or not kind.lists_models:
        said = f"a provider of the type {settings.provider_type} has no list of models to ask for"
        return KeyCheck(True, at, 0, "unchecked" if settings.secrets.api_key else None, None, _error(said))
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            models = len(await (driver or _driver(app, settings)).list_models())
            is_open = has_key and await _lists_without_key(app, settings)
    except TimeoutError:
        said = f"the provider did not answer within {CHECK_TIMEOUT:.0f} seconds"
        return result("unchecked", _error(said, "provider_timeout"))
    except ModelError as error:
        return result("refused" if _is_refusal(error) else "unchecked", _error(error.message, error.code))
    if is_open:
        return result("unchecked", _error("the server lists its models without a key as well"), models)
    return result("valid", None, models)


def _driver(app: App, settings: Settings, secrets: ProviderSecrets | None = None) -> Driver:
    given = settings.secrets if secrets is None else secrets
    config = config_of(settings.provider_type, settings.base_url, given, settings.options, {})
    return app.drivers.unpooled(config)


async def _lists_without_key(app: App, settings: Settings) -> bool:
    """Whether the server lists its models to everybody, so that a list says nothing about the key.

    Most vendors' own addresses do not. Others are asked.
    """
    kind = KINDS.get(settings.provider_type)
    if settings.base_url is None and kind is not None and not kind.open_list and kind.environment is not None:
        return False
    try:
        await _driver(app, settings, ProviderSecrets(None, settings.secrets.headers)).list_models()
    except ModelError as error:
        return not _is_refusal(error)
    return True


def _is_refusal(error: ModelError) -> bool:
    """Whether the vendor knows that the key is wrong, rather than that it may not list models."""
    return error.code == "provider_auth" and not (error.status == 403 and _SCOPES.search(error.message))


def _error(message: str, code: str = "key_not_checked") -> KeyCheckError:
    return KeyCheckError(code, message[:MAX_MESSAGE])
