"""Model prices from the table inside the `genai-prices` package: nothing is fetched.

Importing the package loads its whole table (0.1 s and about 10 MB, docs/decisions/0012-prices-of-models.md),
so the first lookup imports it. Call lookups in a thread, not in the event loop.
"""

from __future__ import annotations

import ipaddress
import logging
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from perdure.domain.model_profiles import CostTier, ModelCost
from perdure.llm.dialects import NAMED

log = logging.getLogger("perdure.llm")

_VENDORS = {
    "openai": "openai",
    "openai_completions": "openai",
    "anthropic": "anthropic",
    "gemini": "google",
    "bedrock": "aws",
    **{dialect.name: dialect.seller for dialect in NAMED},
}
"""Provider type -> the vendor whose prices apply at the driver's default base URL; empty for none."""


class Seller(Struct, frozen=True):
    """Whose prices apply: a vendor of the price list, or the seller behind this base URL."""

    vendor: str | None = None
    address: str | None = None


class Listed(Struct, frozen=True):
    """A model's entry in the price list; `context` is its window in tokens."""

    name: str | None = None
    description: str | None = None
    context: int | None = None
    cost: ModelCost | None = None


@lru_cache(maxsize=1000)  # asked for every model call
def seller_of(provider_type: str, base_url: str | None) -> Seller | None:
    """Return whose prices apply to a provider; None for a simulated model or a private server."""
    vendor = _VENDORS.get(provider_type)
    if vendor is None:
        return None
    if base_url is None:
        return Seller(vendor=vendor) if vendor else None
    host = _host(base_url)
    return Seller(address=base_url) if "." in host and not _is_address(host) else None


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def look_up(seller: Seller, model: str) -> Listed | None:
    """Look up a model in the price list; return None if the seller or the model is unknown."""
    if seller.vendor is not None:
        where: dict[str, Any] = {"provider_id": seller.vendor}
    else:
        where = {"provider_api_url": seller.address}
    try:
        import genai_prices

        entry = genai_prices.calc_price(genai_prices.Usage(input_tokens=0, output_tokens=0), model, **where)
        return Listed(
            entry.model.name, entry.model.description, entry.model.context_window, _cost(entry.model_price)
        )
    except LookupError:
        return None
    except Exception:
        # An error in the price list must not fail the model call: treat the price as unknown.
        log.warning("the price of %s cannot be read", model, exc_info=True)
        return None


_NAMES = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")


def _cost(price: Any) -> ModelCost | None:
    """Convert a price per token; return None for a model that is sold by the hour or the image."""
    prices = [getattr(price, name) for name in _NAMES]
    if prices[0] is None or prices[1] is None:
        return None
    starts = sorted({tier.start for tiered in prices for tier in getattr(tiered, "tiers", ())})
    costs = ((start, (_at(tiered, start) for tiered in prices)) for start in starts)
    tiers = tuple(CostTier(start, *each) for start, each in costs)  # type: ignore[arg-type]
    base = [_at(tiered, -1) for tiered in prices]
    return ModelCost(base[0] or 0.0, base[1] or 0.0, base[2], base[3], tiers)


def _at(price: Any, start: int) -> float | None:
    """Return the price that applies from `start` tokens on."""
    if price is None or isinstance(price, Decimal):
        return None if price is None else float(price)
    value = price.base
    for tier in price.tiers:
        if tier.start <= start:
            value = tier.price
    return float(value)
