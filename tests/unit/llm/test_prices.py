"""The price list: its prices, and whose prices apply."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from typing import Any

import genai_prices
import pytest
from genai_prices.types import ModelPrice, Tier, TieredPrices

from perdure.domain.messages import Usage
from perdure.domain.model_profiles import CostTier, ModelCost, cost_of
from perdure.llm import prices
from perdure.llm.prices import Seller, look_up, seller_of

OPENAI = Seller(vendor="openai")


@pytest.mark.parametrize(
    ("provider_type", "base_url", "seller"),
    [
        ("openai", None, OPENAI),
        ("openai_completions", None, OPENAI),
        ("anthropic", None, Seller(vendor="anthropic")),
        (
            "openai_completions",
            "https://openrouter.ai/api/v1",
            Seller(address="https://openrouter.ai/api/v1"),
        ),
        ("llmsim", None, None),
        ("openai_completions", "http://localhost:8080/v1", None),
        ("openai_completions", "http://127.0.0.1:8080/v1", None),
        ("openai_completions", "http://[::1]:8080/v1", None),
        ("openai_completions", "http://gpu-box:8080/v1", None),
        ("openai_completions", "http://[", None),
    ],
)
def test_prices_are_those_of_the_server_that_is_called(
    provider_type: str, base_url: str | None, seller: Seller | None
) -> None:
    assert seller_of(provider_type, base_url) == seller


@pytest.mark.parametrize(
    ("seller", "model"),
    [
        (OPENAI, "gpt-5-mini"),
        (OPENAI, "gpt-5-mini-2025-08-07"),
        (OPENAI, "gpt-6.1-sol"),
        (Seller(vendor="anthropic"), "claude-sonnet-5-5"),
        (Seller(vendor="anthropic"), "claude-haiku-4-5-20251001"),
        (Seller(address="https://openrouter.ai/api/v1"), "anthropic/claude-sonnet-4.5"),
    ],
)
def test_a_call_costs_what_the_price_list_calculates(seller: Seller, model: str) -> None:
    found = look_up(seller, model)
    assert found is not None
    assert found.cost is not None
    where: dict[str, Any] = (
        {"provider_id": seller.vendor} if seller.vendor else {"provider_api_url": seller.address}
    )
    for tokens in (1_000, 150_000, 250_000, 900_000):
        theirs = genai_prices.Usage(input_tokens=tokens, output_tokens=777, cache_read_tokens=tokens // 3)
        ours = Usage(tokens, 777, cache_read_tokens=tokens // 3)
        reckoned = genai_prices.calc_price(theirs, model, **where).total_price
        assert cost_of(found.cost, ours) == pytest.approx(float(reckoned))


def test_a_model_outside_of_the_price_list_has_no_price() -> None:
    assert look_up(OPENAI, "smollm2-135m") is None
    assert look_up(Seller(vendor="nobody"), "gpt-5-mini") is None
    assert look_up(Seller(address="https://models.example.com/v1"), "gpt-5-mini") is None


def test_a_model_that_is_not_sold_by_the_token_has_no_price_per_token() -> None:
    found = look_up(OPENAI, "whisper-1")
    assert found is None or found.cost is None


def test_an_error_in_the_price_list_means_that_the_price_is_unknown(
    monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(genai_prices, "calc_price", broken)
    assert look_up(OPENAI, "gpt-5-mini") is None
    assert "gpt-5-mini" in caplog.text


def test_the_tiers_of_input_output_and_cache_are_merged() -> None:
    price = ModelPrice(
        input_mtok=TieredPrices(
            base=Decimal(1), tiers=[Tier(start=100, price=Decimal(2)), Tier(start=300, price=Decimal(3))]
        ),
        output_mtok=TieredPrices(base=Decimal(10), tiers=[Tier(start=200, price=Decimal(20))]),
        cache_read_mtok=Decimal("0.5"),
    )
    assert prices._cost(price) == ModelCost(
        1.0,
        10.0,
        0.5,
        None,
        (CostTier(100, 2.0, 10.0, 0.5), CostTier(200, 2.0, 20.0, 0.5), CostTier(300, 3.0, 20.0, 0.5)),
    )


def test_the_price_list_is_not_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, perdure.wiring\n"
        "print([m for m in ('genai_prices', 'pydantic', 'httpx2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
