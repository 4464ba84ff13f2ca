"""What both OpenAI protocols share: endpoint, list of models, and abilities by model name."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from perdure.domain.errors import InvalidInput
from perdure.llm.answer_values import count
from perdure.llm.base_urls import base_urls
from perdure.llm.driver import ListedModel, ProviderConfig
from perdure.llm.endpoint import Endpoint
from perdure.llm.event_costs import LISTED_VALUES, check_cost
from perdure.llm.failures import bad_response

DEFAULT_BASE = "https://api.openai.com/v1"
OPENAI_HOSTS = ("openai.com", "openai.azure.com")
"""Whose addresses end so are OpenAI's own."""

MAX_LISTED = 10_000
"""Maximum number of models read from a list; gateways list hundreds."""

# o1, o3, o4-mini, gpt-5 and later, codex; not the chat variants, which do not reason.
_REASONS = re.compile(r"(^|/)(o\d|gpt-([5-9]|\d\d)|codex|computer-use)(?!.*chat)")
_PHASED = re.compile(r"(^|/)gpt-(5\.[3-9]|5\.\d\d|[6-9]|\d\d)")


def endpoint_of(config: ProviderConfig, own: str | None = DEFAULT_BASE) -> Endpoint:
    """Build the endpoint for a configuration.

    Args:
        own: the address without a `base_url`; None if the provider needs one.

    Raises:
        InvalidInput: the URL or the key is invalid, or the URL is missing.
    """
    address = config.base_url or own
    if address is None:
        raise InvalidInput(
            f"a provider of the type {config.provider_type} needs a `base_url`", field="base_url"
        )
    base, other = base_urls(address)
    key = (config.api_key or "").strip()
    credentials = {"Authorization": f"Bearer {key}"} if key else {}
    headers = text_map(config.options.get("headers"))
    return Endpoint(base, credentials, headers, other, config.options.get("timeout_seconds"))


def text_map(value: object) -> dict[str, str]:
    """Convert an option to a map of strings; any other value becomes an empty map."""
    return {str(name): str(text) for name, text in value.items()} if isinstance(value, dict) else {}


def thinks(model: str) -> bool:
    """Whether this is one of OpenAI's reasoning models, by its name."""
    return _REASONS.search(model.lower()) is not None


def knows_phases(model: str) -> bool:
    """Whether the model expects the `phase` of its earlier messages (GPT-5.3 and later), by its name."""
    return _PHASED.search(model.lower()) is not None


def cache_key(name: str) -> str:
    """Shorten the key to the 64 characters that OpenAI allows."""
    return name[-64:]


def listed_models(body: bytes) -> list[ListedModel]:
    """Parse the answer of a list endpoint; keep its order.

    Raises:
        ModelError: the answer is not a list of models.
    """
    value = decoded_list(body)
    entries = value.get("data", value.get("models")) if isinstance(value, dict) else value
    models = [_listed(entry) for entry in entries_in(entries)]
    return [model for model in models if model is not None]


def decoded_list(body: bytes) -> Any:
    """Decode the answer of a list endpoint. Raises: ModelError: it is not JSON, or too much of it."""
    check_cost(body, "the provider's list of models", LISTED_VALUES)
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        raise bad_response("the provider's list of models is not JSON", transient=False) from None


def entries_in(listed: object) -> list[dict[str, Any]]:
    """Return the entries of a list of models, up to `MAX_LISTED`. Raises: ModelError: it is not a list."""
    if not isinstance(listed, list):
        raise bad_response("the provider's list of models is not a list", transient=False)
    return [entry for entry in listed[:MAX_LISTED] if isinstance(entry, dict)]


def _listed(entry: dict[str, Any]) -> ListedModel | None:
    model = entry.get("id") or entry.get("name")
    if not isinstance(model, str) or not model:
        return None
    meta = entry.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    windows = (
        entry.get("context_length"),
        entry.get("context_window"),
        entry.get("max_context_length"),
        entry.get("max_model_len"),
        entry.get("max_input_tokens"),
        meta.get("n_ctx"),
    )
    title = entry.get("display_name") or entry.get("name")
    return ListedModel(
        model,
        title if isinstance(title, str) and title != model else None,
        next((tokens for tokens in map(count, windows) if tokens), None),
    )


def next_page(body: bytes) -> str | None:
    """Return the cursor of the list's next page, or None on the last page."""
    value = msgspec.json.decode(body)
    last = value.get("last_id") if isinstance(value, dict) and value.get("has_more") else None
    return last if isinstance(last, str) and last else None
