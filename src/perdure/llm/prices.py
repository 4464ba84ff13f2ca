"""Prices of models, from the `genai-prices` package's own copy of them: nothing is fetched.

The package brings its whole table (0.1 s and some 10 MB, docs/decisions/0012-prices-of-models.md), so it is
imported by the first look-up, never before. Look-ups are for a thread, not for the event loop.
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

log = logging.getLogger("perdure.llm")

_VENDORS = {"openai": "openai", "openai_completions": "openai", "anthropic": "anthropic"}
"""By type of provider: whose prices hold at the driver's own address."""


class Seller(Struct, frozen=True):
    """Whose prices hold: a vendor of the price list, or whoever has this address."""

    vendor: str | None = None
    address: str | None = None


class Listed(Struct, frozen=True):
    """What the price list says about a model."""

    name: str | None = None
    description: str | None = None
    context: int | None = None
    cost: ModelCost | None = None


@lru_cache(maxsize=1000)  # asked for every model call
def seller_of(provider_type: str, base_url: str | None) -> Seller | None:
    """Whose prices hold for a provider; None when there can be none.

    A simulated model, or a server of one's own.
    """
    vendor = _VENDORS.get(provider_type)
    if vendor is None:
        return None
    if base_url is None:
        return Seller(vendor=vendor)
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
    """What the price list says; None when it does not know the seller or the model."""
    if seller.vendor is not None:
        where: dict[str, Any] = {"provider_id": seller.vendor}
    else:
        where = {"provider_api_url": seller.address}
    try:
        import genai_prices

        found = genai_prices.calc_price(genai_prices.Usage(input_tokens=0, output_tokens=0), model, **where)
        return Listed(
            found.model.name, found.model.description, found.model.context_window, _cost(found.model_price)
        )
    except LookupError:
        return None
    except Exception:
        # A price that cannot be read is not known; what the price was wanted for must not fail with it.
        log.warning("the price of %s cannot be read", model, exc_info=True)
        return None


_NAMES = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")


def _cost(price: Any) -> ModelCost | None:
    """A price per token in and out, or None: some models are sold by the hour or the picture."""
    prices = [getattr(price, name) for name in _NAMES]
    if prices[0] is None or prices[1] is None:
        return None
    starts = sorted({tier.start for each in prices for tier in getattr(each, "tiers", ())})
    tiers = tuple(CostTier(start, *(_at(each, start) for each in prices)) for start in starts)  # type: ignore[arg-type]
    base = [_at(each, -1) for each in prices]
    return ModelCost(base[0] or 0.0, base[1] or 0.0, base[2], base[3], tiers)


def _at(price: Any, start: int) -> float | None:
    """The price of the tier that begins there, or of the last one before."""
    if price is None or isinstance(price, Decimal):
        return None if price is None else float(price)
    value = price.base
    for tier in price.tiers:
        if tier.start <= start:
            value = tier.price
    return float(value)
