"""The vendors whose keys the server's environment may hold, and the models to begin with there."""

from __future__ import annotations

from msgspec import Struct


class Vendor(Struct, frozen=True):
    """A vendor of models.

    Attributes:
        provider_type: the type of provider that speaks its protocol.
        key_variable, address_variable: the variables that its own tools read the key and the address from.
        model_id, model_name: the model that it recommends for most work (its page of models, November 2026).
        small_model_id: a cheap one, for a demonstration.
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
    """The vendor's name of the model to begin with."""
    return next((each.model_id for each in VENDORS if each.provider_type == provider_type), None)
