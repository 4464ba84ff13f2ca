"""The cache of model profiles and prices."""

from __future__ import annotations

import pytest

from perdure.domain.model_profiles import ModelCost, ModelLimits
from perdure.llm import catalog as catalog_module
from perdure.llm.catalog import FRESH, Catalog, ServedModel
from perdure.llm.prices import Listed, Seller

MINI = ServedModel("openai", None, "gpt-5-mini")
NEW = ServedModel("openai", None, "gpt-99")
OWN = ServedModel("openai_completions", "http://127.0.0.1:8080/v1", "smollm2-135m")
COST = ModelCost(1.0, 2.0)


class PriceList:
    """A price list that knows one price, and counts its lookups."""

    def __init__(self, listed: Listed | None = Listed("Mini", "Small.", 400_000, COST)) -> None:  # noqa: B008
        self.listed = listed
        self.asked: list[tuple[Seller, str]] = []
        self.now = 0.0

    def __call__(self, seller: Seller, model: str) -> Listed | None:
        self.asked.append((seller, model))
        return self.listed

    def catalog(self) -> Catalog:
        return Catalog(self, lambda: self.now)


async def test_limits_are_known_before_the_price_lookup() -> None:
    catalog = PriceList().catalog()
    assert not catalog.is_ready(MINI)
    before = catalog.at_hand(MINI)
    assert before is not None
    assert (before.limits, before.cost) == (ModelLimits(400_000, 128_000), None)
    after = await catalog.profile(MINI)
    assert after is not None
    assert (after.name, after.description, after.limits, after.cost) == (
        "Mini",
        "Small.",
        ModelLimits(400_000, 128_000),
        COST,
    )
    assert catalog.is_ready(MINI)
    assert catalog.at_hand(MINI) == after


async def test_a_price_is_looked_up_once_and_again_when_it_may_have_changed() -> None:
    prices = PriceList()
    catalog = prices.catalog()
    for _ in range(3):
        await catalog.profiles((MINI, MINI))
    assert prices.asked == [(Seller(vendor="openai"), "gpt-5-mini")]
    prices.now = FRESH
    assert not catalog.is_ready(MINI)
    assert catalog.at_hand(MINI) is not None
    await catalog.profile(MINI)
    assert len(prices.asked) == 2


async def test_the_price_of_a_private_servers_model_is_not_looked_up() -> None:
    prices = PriceList()
    catalog = prices.catalog()
    assert catalog.is_ready(OWN)
    profile = await catalog.profile(OWN)
    assert profile is not None
    assert (profile.family, profile.open_weights, profile.cost, profile.limits) == (
        "smollm",
        True,
        None,
        None,
    )
    assert (
        await catalog.profile(ServedModel("openai_completions", "http://127.0.0.1:8080/v1", "who-knows"))
        is None
    )
    assert prices.asked == []


async def test_the_simulated_model_has_a_profile_and_no_price() -> None:
    prices = PriceList()
    profile = await prices.catalog().profile(ServedModel("llmsim", None, "anything"))
    assert profile is not None
    assert (profile.family, profile.tool_call, profile.cost) == ("llmsim", True, None)
    assert prices.asked == []


async def test_a_model_that_only_the_price_list_knows_gets_typical_abilities() -> None:
    profile = await PriceList(Listed("GPT-99", None, 2_000_000, COST)).catalog().profile(NEW)
    assert profile is not None
    assert (profile.name, profile.family, profile.tool_call, profile.cost) == ("GPT-99", "gpt", True, COST)
    assert profile.limits == ModelLimits(2_000_000, 2_000_000)


async def test_an_unknown_model_has_no_profile() -> None:
    assert await PriceList(None).catalog().profile(NEW) is None
    assert await PriceList(Listed("Talker")).catalog().profile(NEW) is None


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "MAX_CACHED", 10)
    catalog = PriceList().catalog()
    await catalog.profiles(ServedModel("openai", None, f"gpt-5-{number}") for number in range(25))
    assert len(catalog._cache) == 10
