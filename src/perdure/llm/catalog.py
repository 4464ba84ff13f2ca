"""What is known about models, looked up once and kept: their profiles, with limits and prices."""

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

MAX_KEPT = 5_000
"""Profiles that are kept; one takes about a kilobyte."""

FRESH = 3_600.0
"""Seconds that a price is kept: some depend on the date or the time of day."""


class Place(NamedTuple):
    """A model, and where it is served: the same model costs other prices elsewhere."""

    provider_type: str
    base_url: str | None
    model: str


class Catalog:
    """The profiles that this process has looked up.

    Args:
        price: looks up a model in the price list, in a thread.
        elapsed: a clock, in seconds.
    """

    def __init__(
        self,
        price: Callable[[Seller, str], Listed | None] = look_up,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._price = price
        self._elapsed = elapsed
        self._kept: dict[Place, tuple[float, ModelProfile | None]] = {}

    def is_ready(self, place: Place) -> bool:
        """Whether the profile is at hand, price included, or there is no price to look for."""
        kept = self._kept.get(place)
        if kept is not None:
            return self._elapsed() - kept[0] < FRESH
        return seller_of(place.provider_type, place.base_url) is None

    def at_hand(self, place: Place) -> ModelProfile | None:
        """The profile as far as it is known without looking for its price."""
        kept = self._kept.get(place)
        if kept is not None:
            return kept[1]
        return _without_price(place)

    async def profile(self, place: Place) -> ModelProfile | None:
        """The profile with its price, where they are known."""
        return (await self.profiles((place,)))[place]

    async def profiles(self, places: Iterable[Place]) -> Mapping[Place, ModelProfile | None]:
        """The profiles of many models.

        Those that are not at hand are looked up in a thread, all in one go.
        """
        places = tuple(dict.fromkeys(places))
        missing = [place for place in places if not self.is_ready(place)]
        if missing:
            found = await asyncio.to_thread(lambda: [self._look_up(place) for place in missing])
            now = self._elapsed()
            for place, profile in zip(missing, found, strict=True):
                self._kept.pop(place, None)
                self._kept[place] = (now, profile)
            while len(self._kept) > MAX_KEPT:
                del self._kept[next(iter(self._kept))]
        return {place: self.at_hand(place) for place in places}

    def _look_up(self, place: Place) -> ModelProfile | None:
        profile = _without_price(place)
        seller = seller_of(place.provider_type, place.base_url)
        listed = None if seller is None else self._price(seller, place.model)
        return profile if listed is None else _joined(place.model, profile, listed)


def _without_price(place: Place) -> ModelProfile | None:
    if place.provider_type == SIMULATED:
        return ModelProfile(place.model, SIMULATED, False, True, True, True, False, False)
    return described(place.model)


def _joined(model: str, profile: ModelProfile | None, listed: Listed) -> ModelProfile | None:
    """The table and the price list together.

    Of a window that only the list knows, the answer's bound stays unknown.
    """
    if profile is None:
        if listed.cost is None:
            return None
        # A model that is new since this version: it is taken for one like most of today's.
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
