"""A driver's configuration follows from the stored provider and the environment."""

from __future__ import annotations

import pytest

from perdure.domain.errors import InvalidInput
from perdure.domain.providers import ProviderOptions, ProviderSecrets
from perdure.llm.driver import ProviderConfig
from perdure.llm.http import Http
from perdure.llm.registry import config_of, known_types, make_driver, vendor_key

ENVIRONMENT = {"OPENAI_API_KEY": "sk-environment", "ANTHROPIC_API_KEY": " "}
NOTHING = ProviderOptions()


def test_a_key_from_the_environment_is_sent_to_its_vendor_only() -> None:
    def key(provider_type: str, base_url: str | None, own: str | None = None) -> str | None:
        return config_of(provider_type, base_url, ProviderSecrets(own), NOTHING, ENVIRONMENT).api_key

    assert key("openai", None) == key("openai_completions", None) == "sk-environment"
    assert key("openai", "https://models.example.com/v1") is None
    assert key("openai", "https://api.openai.com.example.com/v1") is None
    assert key("openai", None, "own") == "own"
    assert key("anthropic", None) is None
    assert key("llmsim", None) is None


def test_an_empty_variable_does_not_count_as_a_key() -> None:
    assert vendor_key("openai", {"OPENAI_API_KEY": ""}) is None
    assert vendor_key("abacus", ENVIRONMENT) is None


def test_options_and_headers_are_passed_on() -> None:
    secrets = ProviderSecrets("k", {"X-A": "1"})
    assert config_of(
        "anthropic", None, secrets, ProviderOptions(bearer=True, max_tokens=9), {}
    ) == ProviderConfig("anthropic", None, "k", {"bearer": True, "max_tokens": 9, "headers": {"X-A": "1"}})
    assert config_of("anthropic", None, ProviderSecrets(), NOTHING, {}).options == {}


@pytest.mark.parametrize("provider_type", known_types())
async def test_an_unknown_option_is_refused(provider_type: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make_driver(ProviderConfig(provider_type, options={"colour": "red"}), Http())
    assert caught.value.field == "options.colour"


async def test_a_header_that_duplicates_the_key_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        make_driver(
            ProviderConfig("openai", None, "key", {"headers": {"authorization": "Bearer other"}}), Http()
        )
    assert caught.value.field == "options.headers"
    make_driver(ProviderConfig("openai", None, None, {"headers": {"authorization": "Bearer other"}}), Http())
