"""Cache model profiles: a model's limits, abilities and prices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from perdure.domain.model_profiles import ModelLimits, ModelProfile
from perdure.llm.model_table import described
from perdure.llm.prices import Listed, Seller, look_up, seller_of
from perdure.llm.simulated import PROVIDER_TYPE as SIMULATED

MAX_CACHED = 5_000
"""Maximum number of cached profiles; one takes about a kilobyte."""

FRESH = 3_600.0
"""Seconds that a price stays cached: some prices depend on the date or the time of day."""


class ServedModel(NamedTuple):
    """A model and the server that runs it: the same model has different prices on different servers."""

    provider_type: str
    base_url: str | None
    model: str


class LearnedLimits(NamedTuple):
    """Limits in tokens that a model named in its errors; None if it never had to."""

    window: int | None = None
    output: int | None = None


_NO_LIMITS = LearnedLimits()


class Catalog:
    """Caches the profiles that this process has looked up.

    Args:
        price: looks up a model in the price list; called in a thread.
        elapsed: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        price: Callable[[Seller, str], Listed | None] = look_up,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._price = price
        self._elapsed = elapsed
        self._cache: dict[ServedModel, tuple[float, ModelProfile | None]] = {}
        self._learned: dict[ServedModel, LearnedLimits] = {}
        self._plain: dict[ServedModel, ModelProfile | None] = {}
        """Profiles without prices, which take a while to find."""

    def learn(self, served: ServedModel, *, window: int | None = None, output: int | None = None) -> None:
        """Remember the limits that the model named when it refused a request."""
        known = self._learned.pop(served, LearnedLimits())
        self._learned[served] = LearnedLimits(window or known.window, output or known.output)
        while len(self._learned) > MAX_CACHED:
            del self._learned[next(iter(self._learned))]

    def learned(self, served: ServedModel) -> LearnedLimits:
        """Return the limits that the model named since this process started."""
        return self._learned.get(served) or _NO_LIMITS

    def is_ready(self, served: ServedModel) -> bool:
        """Whether the cached profile has a current price, or the model has no price to look up."""
        cached = self._cache.get(served)
        if cached is not None:
            return self._elapsed() - cached[0] < FRESH
        return seller_of(served.provider_type, served.base_url) is None

    def at_hand(self, served: ServedModel) -> ModelProfile | None:
        """Return what is known about the model without a price lookup."""
        cached = self._cache.get(served)
        if cached is not None:
            return cached[1]
        if served not in self._plain:
            if len(self._plain) >= MAX_CACHED:
                self._plain.clear()
            self._plain[served] = _without_price(served)
        return self._plain[served]

    async def profile(self, served: ServedModel) -> ModelProfile | None:
        """Return the profile with its price, or None if the model is unknown."""
        return (await self.profiles((served,)))[served]

    async def profiles(
        self, served_models: Iterable[ServedModel]
    ) -> Mapping[ServedModel, ModelProfile | None]:
        """Return the profiles of many models.

        One thread looks up all profiles that are not cached.
        """
        served_models = tuple(dict.fromkeys(served_models))
        missing = [served for served in served_models if not self.is_ready(served)]
        if missing:
            profiles = await asyncio.to_thread(lambda: [self._look_up(served) for served in missing])
            now = self._elapsed()
            for served, profile in zip(missing, profiles, strict=True):
                self._cache.pop(served, None)
                self._cache[served] = (now, profile)
            while len(self._cache) > MAX_CACHED:
                del self._cache[next(iter(self._cache))]
        return {served: self.at_hand(served) for served in served_models}

    def _look_up(self, served: ServedModel) -> ModelProfile | None:
        profile = _without_price(served)
        seller = seller_of(served.provider_type, served.base_url)
        listed = None if seller is None else self._price(seller, served.model)
        return profile if listed is None else _joined(served.model, profile, listed)


def _without_price(served: ServedModel) -> ModelProfile | None:
    if served.provider_type == SIMULATED:
        return ModelProfile(served.model, SIMULATED, False, True, True, True, False, False)
    return described(served.model)


def _joined(model: str, profile: ModelProfile | None, listed: Listed) -> ModelProfile | None:
    """Combine the model table's profile with the price list's entry.

    The price list has no output limit, so a context window from there counts for the output as well.
    """
    if profile is None:
        if listed.cost is None:
            return None
        # The model is newer than this release: assume the abilities that most models have.
        family = model.rsplit("/", maxsplit=1)[-1].split("-", maxsplit=1)[0]
        profile = ModelProfile(
            name=model,
            family=family,
            attachment=False,
            reasoning=False,
            temperature=True,
            tool_call=True,
            structured_output=False,
            open_weights=False,
        )
    limits = profile.limits
    if limits is None and listed.context:
        limits = ModelLimits(listed.context, listed.context)
    return replace(
        profile,
        name=listed.name or profile.name,
        description=listed.description,
        limits=limits,
        cost=listed.cost,
    )
