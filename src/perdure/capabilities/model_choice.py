"""Chooses the model that a session calls next, and creates its driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.ids import ModelId
from perdure.domain.providers import ProviderSecrets
from perdure.llm.driver import Driver
from perdure.store.crypto import Vault
from perdure.store.database import Tx
from perdure.store.providers import ModelRow, ProviderRow, open_secrets, usable_model

if TYPE_CHECKING:
    from perdure.capabilities.resolve import Layer, SessionLayers


class UsableModel(Struct, frozen=True):
    """A model that may be called, and the provider that serves it."""

    model: ModelRow
    provider: ProviderRow


class ModelChoice(UsableModel, frozen=True):
    """The model to call, with the driver that makes the calls."""

    driver: Driver


DriverSource = Callable[[ProviderRow, ProviderSecrets], Driver]
"""Creates the driver of a provider from its decrypted secrets. Raises InvalidInput if it cannot."""


def model_claims(layers: Sequence[Layer]) -> tuple[ModelId, ...]:
    """The models that the layers set, highest precedence first."""
    return tuple(layer.model_id for layer in reversed(layers) if layer.model_id is not None)


async def find_model(tx: Tx, loaded: SessionLayers, requested: str | None = None) -> UsableModel | None:
    """Find the model for the next call; None when none is configured.

    Order of precedence: the message (`requested`), session, agent, harness, organization. A model that was
    deleted or disabled is skipped.
    """
    claims = model_claims(loaded.layers)
    for claim in (*claims, None) if requested is None else (requested, *claims, None):
        usable = await usable_model(tx, loaded.session.org_id, claim)
        if usable is not None:
            return UsableModel(*usable)
    return None


async def choose_model(
    tx: Tx, loaded: SessionLayers, requested: str | None, vault: Vault, drivers: DriverSource
) -> ModelChoice | None:
    """Find the model for the next call and create its driver; None when none is configured.

    Raises:
        InvalidInput: the provider's settings cannot be used.
    """
    usable = await find_model(tx, loaded, requested)
    if usable is None:
        return None
    provider = usable.provider
    secrets = await open_secrets(vault, tx, provider)
    try:
        driver = drivers(provider, secrets)
    except InvalidInput as error:
        # The settings were valid when they were stored, but the key in the environment was not checked then.
        raise InvalidInput(
            f"the provider {provider.name!r} cannot be used: {error.message}", code="provider_misconfigured"
        ) from None
    return ModelChoice(usable.model, provider, driver)
