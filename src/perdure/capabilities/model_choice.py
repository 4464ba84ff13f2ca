"""Chooses the model that a session calls next, and creates its driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from perdure.domain.errors import InvalidInput, PerdureError
from perdure.domain.fallbacks import Fallback
from perdure.domain.ids import ModelId, OrgId, ProviderId
from perdure.domain.providers import ProviderSecrets
from perdure.domain.times import Micros
from perdure.llm.driver import Driver
from perdure.store.call_reads import CallReads
from perdure.store.crypto import Vault
from perdure.store.database import Tx
from perdure.store.providers import ProviderRow, UsableModel, open_secrets, usable_model, usable_models

if TYPE_CHECKING:
    from perdure.capabilities.layers import Layer, SessionLayers


class UnfitModel(Struct, frozen=True):
    """A model that cannot be called: the settings of its provider are not valid, and why."""

    model: UsableModel
    error: PerdureError


class ModelChoice(UsableModel, frozen=True):
    """The model to call, with the driver that makes the calls.

    Attributes:
        others: the models to call if this one does not answer, in this order.
        instead_of: the model that would have been called, if calls of it have failed just now, or if its
            settings are not valid.
        unfit: the models that are skipped.
    """

    driver: Driver
    others: tuple[UsableModel, ...] = ()
    instead_of: UsableModel | None = None
    unfit: tuple[UnfitModel, ...] = ()


MAX_FIT = 10_000
"""Providers whose settings are remembered as valid."""


class FitProviders:
    """Providers whose settings are valid: no call decrypts the keys of all fallbacks to find that out."""

    def __init__(self) -> None:
        self._known: dict[ProviderId, Micros] = {}

    def __contains__(self, provider: ProviderRow) -> bool:
        return self._known.get(provider.id) == provider.updated_at

    def add(self, provider: ProviderRow) -> None:
        """Remember a provider until it changes."""
        if len(self._known) >= MAX_FIT:
            self._known.clear()
        self._known[provider.id] = provider.updated_at


DriverSource = Callable[[ProviderRow, ProviderSecrets], Driver]
"""Creates the driver of a provider from its decrypted secrets. Raises InvalidInput if it cannot."""


def model_claims(layers: Sequence[Layer]) -> tuple[ModelId, ...]:
    """The models that the layers set, highest precedence first."""
    return tuple(layer.model_id for layer in reversed(layers) if layer.model_id is not None)


Admits = Callable[[UsableModel], bool]
"""Whether to call a model rather than another one."""


async def find_model(
    tx: Tx, org_id: OrgId, layers: Sequence[Layer], requested: str | None = None
) -> UsableModel | None:
    """Find the model that the session's next call uses.

    Args:
        requested: the model that a message asks for.
    """
    found = await _find(tx, org_id, layers, requested)
    return None if found is None else found[0]


async def _find(
    tx: Tx, org_id: OrgId, layers: Sequence[Layer], requested: str | None, known: CallReads | None = None
) -> tuple[UsableModel, tuple[ModelId, ...]] | None:
    """Find the model for the next call, and the organization's fallbacks; None when none is configured.

    Order of precedence: the message (`requested`), session, agent, harness, organization. A model that was
    deleted or disabled is skipped.

    Args:
        known: what was read already, with the model that a plain session calls.
    """
    claims = model_claims(layers)
    if known is not None and claims == _claims_of(layers[-1], known):
        return None if known.model is None else (known.model, known.fallbacks)
    for claim in (*claims, None) if requested is None else (requested, *claims, None):
        usable = await usable_model(tx, org_id, claim)
        if usable is not None:
            return usable
    return None


def _claims_of(session: Layer, known: CallReads) -> tuple[ModelId, ...]:
    """The models, highest precedence first, of a session, its agent and its harness."""
    agent = None if known.agent is None else known.agent.default_model_id
    claims = session.model_id, agent, known.harness.default_model_id
    return tuple(each for each in claims if each is not None)


def fallback_claims(layers: Sequence[Layer], of_organization: Sequence[str]) -> Sequence[str]:
    """The fallback models of the highest layer that names any, or else of the organization."""
    named = (layer.fallback_models for layer in reversed(layers) if layer.fallback_models)
    return next(named, of_organization)


class _Plan(Struct, frozen=True):
    """A choice without its driver."""

    model: UsableModel
    others: tuple[UsableModel, ...] = ()
    instead_of: UsableModel | None = None
    unfit: tuple[UnfitModel, ...] = ()


class _Fitter(Struct, frozen=True):
    """Creates the drivers of models."""

    tx: Tx
    vault: Vault
    drivers: DriverSource
    fit: FitProviders

    async def driver_of(self, model: UsableModel) -> Driver:
        """Create a model's driver. Raises InvalidInput and Unavailable: its settings cannot be used."""
        provider = model.provider
        secrets = await open_secrets(self.vault, self.tx, provider)
        try:
            return self.drivers(provider, secrets)
        except InvalidInput as error:
            # The settings were valid when they were stored, but the key in the environment was not checked
            # then.
            raise InvalidInput(
                f"the provider {provider.name!r} cannot be used: {error.message}",
                code="provider_misconfigured",
            ) from None

    async def unfit(self, models: Sequence[UsableModel]) -> tuple[UnfitModel, ...]:
        """Those of these models that cannot be called."""
        found = []
        for model in models:
            if model.provider in self.fit:
                continue
            try:
                await self.driver_of(model)
            except PerdureError as error:
                if error.retryable:
                    raise  # the database is unavailable
                found.append(UnfitModel(model, error))
            else:
                self.fit.add(model.provider)
        return tuple(found)


async def _planned(
    fitter: _Fitter,
    loaded: SessionLayers,
    requested: str | None,
    fallback: Fallback | None,
    admits: Admits,
    *,
    begun: bool,
    reads: CallReads | None,
) -> _Plan | None:
    tx = fitter.tx
    found = await _find(tx, loaded.session.org_id, loaded.layers, requested, reads)
    if found is None:
        return None
    first, claims = found[0], fallback_claims(loaded.layers, found[1])
    if not claims and fallback is None:
        return _Plan(first)
    further = [] if fallback is None or fallback.model_id is None else [fallback.model_id]
    known = await usable_models(tx, loaded.session.org_id, [*claims, *further])
    known = [each for each in known if each.model.id != first.model.id]
    failed = () if fallback is None else fallback.failed
    replaceable = [] if begun or first.model.id in failed else [first]
    unfit = await fitter.unfit([*replaceable, *known])
    skipped = {each.model.model.id for each in unfit}
    chain = {each.model.id: each for each in (first, *known) if each.model.id not in skipped}
    untried = [each for each in chain.values() if each.model.id not in failed]
    # A fallback that was disabled meanwhile is followed by the next one.
    wanted = ModelId(further[0]) if further else first.model.id
    current = chain.get(wanted) or next(iter(untried), first)
    others = [each for each in untried if each is not current]
    # People expect this model, or the log names it: the log has to say that another one is called.
    gone = next((each.model for each in unfit if each.model.model.id == wanted != current.model.id), None)
    plan = _Plan(current, tuple(others), gone, unfit)
    if not others or admits(current):
        return plan
    better = next((each for each in others if admits(each)), None)
    if better is None:
        return plan
    left = (*(each for each in others if each is not better), current)
    return _Plan(better, left, current, unfit)


async def choose_model(
    tx: Tx,
    loaded: SessionLayers,
    requested: str | None,
    vault: Vault,
    drivers: DriverSource,
    fit: FitProviders,
    *,
    fallback: Fallback | None = None,
    admits: Admits = lambda model: True,
    begun: bool = False,
    known: CallReads | None = None,
) -> ModelChoice | None:
    """Find the model for the next call and create its driver; None when none is configured.

    Args:
        requested: the model that a message asks for.
        fallback: what the turn knows of models that do not answer.
        admits: whether to call a model rather than another one. It is asked only if there is one.
        begun: whether the start of the call is in the log: a first model that is named there is not replaced.
        known: what was read already.

    Raises:
        InvalidInput: the provider's settings cannot be used, and there is no fallback of which this is not
            true.
    """
    fitter = _Fitter(tx, vault, drivers, fit)
    plan = await _planned(fitter, loaded, requested, fallback, admits, begun=begun, reads=known)
    if plan is None:
        return None
    driver = await fitter.driver_of(plan.model)
    return ModelChoice(
        plan.model.model, plan.model.provider, driver, plan.others, plan.instead_of, plan.unfit
    )
