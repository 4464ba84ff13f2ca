"""Vendors whose keys the server reads from its environment, and their recommended models."""

from __future__ import annotations

from msgspec import Struct


class Vendor(Struct, frozen=True):
    """A vendor of models.

    Attributes:
        provider_type: the provider type that speaks the vendor's protocol.
        key_variable: the variable from which the vendor's own tools read the key.
        address_variable: the variable from which the vendor's own tools read the base URL.
        model_id: the model that the vendor recommends for most work (its page of models, November 2026).
        model_name: that model's display name.
        small_model_id: a cheap model for demonstrations.
    """

    provider_type: str
    name: str
    key_variable: str
    address_variable: str
    model_id: str
    model_name: str
    small_model_id: str


OPENAI = Vendor(
    "openai",
    "OpenAI",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "gpt-6.1-sol",
    "GPT-6.1 Sol",
    "gpt-5-mini",
)
ANTHROPIC = Vendor(
    "anthropic",
    "Anthropic",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_BASE_URL",
    "claude-sonnet-5-5",
    "Claude Sonnet 5.5",
    "claude-haiku-4-5",
)
VENDORS = (OPENAI, ANTHROPIC)


def preferred_model(provider_type: str) -> str | None:
    """Return the model id that the vendor recommends for most work."""
    return next((vendor.model_id for vendor in VENDORS if vendor.provider_type == provider_type), None)
