"""Drivers from configurations, and the pool of a process."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from msgspec import Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.ids import OrgId, ProviderId
from perdure.domain.providers import ProviderOptions, ProviderSecrets
from perdure.llm.driver import Driver, ProviderConfig
from perdure.llm.http import Http
from perdure.llm.registry import KINDS, MAX_DRIVERS, DriverPool, known_types, make_driver


@pytest.mark.parametrize("provider_type", known_types())
async def test_every_known_type_has_a_driver_that_knows_its_type(provider_type: str) -> None:
    address = None if KINDS[provider_type].own_address else "https://name.example.com"
    assert make_driver(ProviderConfig(provider_type, address), Http()).provider_type == provider_type


def test_drivers_that_few_servers_need_are_imported_on_first_use() -> None:
    code = (
        "import sys; import perdure.wiring; print(*(name for name in sys.modules if 'perdure.llm.' in name))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = done.stdout.split()
    assert "perdure.llm.registry" in loaded
    assert not [name for name in loaded if "gemini" in name or "bedrock" in name or "aws" in name]


async def test_a_type_without_an_address_of_its_own_asks_for_one() -> None:
    with pytest.raises(InvalidInput, match="needs a `base_url`") as caught:
        make_driver(ProviderConfig("azure_openai"), Http())
    assert caught.value.field == "base_url"


async def test_an_unknown_type_is_refused_and_the_error_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="openai, openai_completions, anthropic, llmsim") as caught:
        make_driver(ProviderConfig("abacus"), Http())
    assert caught.value.field == "provider_type"


@pytest.mark.parametrize(
    "provider_type", ["openai", "openai_completions", "anthropic", "gemini", "bedrock", "ollama"]
)
@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("base_url", {"base_url": "ftp://example.com"}),
        ("base_url", {"base_url": "example.com/v1"}),
        ("base_url", {"base_url": "http://"}),
        ("base_url", {"base_url": "http://[::1"}),
        (
            "base_url",
            {"base_url": "http://me:pass@example.com", "options": {"headers": {"authorization": "two"}}},
        ),
        ("api_key", {"api_key": "two\r\nlines"}),
        ("api_key", {"api_key": "schlüssel"}),
        ("api_key", {"options": {"headers": {"X-A": "a\nb"}}}),
    ],
)
async def test_an_invalid_configuration_is_refused_without_revealing_the_key(
    provider_type: str, field: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        make_driver(ProviderConfig(provider_type, **fields), Http())
    assert caught.value.field == field
    assert "two" not in caught.value.message


VARIABLES = (
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GEMINI_API_KEY",
    "AWS_BEARER_TOKEN_BEDROCK",
    "GROQ_API_KEY",
)
FIRST, SECOND = OrgId("org_1"), OrgId("org_2")


class _Stored(Struct, frozen=True):
    """A stored provider; `made` counts how often a driver was created from it."""

    id: ProviderId
    updated_at: int
    provider_type: str = "openai"
    base_url: str | None = None
    org_id: OrgId = FIRST
    made: list[str] = []

    def option_struct(self) -> ProviderOptions:
        self.made.append("made")
        return ProviderOptions()


async def test_a_pool_keeps_a_driver_until_its_provider_changes() -> None:
    pool = DriverPool({})
    made: list[str] = []

    def driver(provider_id: str, version: int) -> Driver:
        provider = _Stored(ProviderId(provider_id), version, made=made)
        return pool.driver_for(provider, ProviderSecrets("key"))

    first = driver("provider_1", 1)
    assert driver("provider_1", 1) is first
    assert driver("provider_2", 1) is not first
    assert driver("provider_1", 2) is not first
    assert len(made) == 3
    await pool.close()
    assert driver("provider_1", 2) is not first


async def test_a_pool_is_bounded() -> None:
    pool = DriverPool({})
    for number in range(MAX_DRIVERS + 5):
        pool.driver_for(_Stored(ProviderId(f"provider_{number}"), 1, "llmsim"), ProviderSecrets())
    assert len(pool._drivers) == MAX_DRIVERS


@pytest.mark.parametrize(
    "provider_type", ["openai", "openai_completions", "anthropic", "gemini", "bedrock", "groq"]
)
async def test_a_key_in_the_environment_serves_the_first_organization_only(provider_type: str) -> None:
    pool = DriverPool(dict.fromkeys(VARIABLES, "key"))
    mine = _Stored(ProviderId("provider_1"), 1, provider_type)
    theirs = _Stored(ProviderId("provider_2"), 1, provider_type, org_id=SECOND)
    assert not pool.environment_key(FIRST, provider_type)  # until it is known which one that is
    pool.lend_environment(FIRST)
    assert pool.environment_key(FIRST, provider_type)
    assert not pool.environment_key(SECOND, provider_type)
    pool.driver_for(mine, ProviderSecrets())
    with pytest.raises(InvalidInput, match="there is no API key") as refused:
        pool.driver_for(theirs, ProviderSecrets())
    assert (refused.value.code, refused.value.field) == ("api_key_missing", "api_key")
    pool.driver_for(theirs, ProviderSecrets("their own"))
    pool.driver_for(
        _Stored(ProviderId("provider_3"), 1, provider_type, "http://localhost:1/v1", org_id=SECOND),
        ProviderSecrets(),
    )
