"""Addresses that model calls must not reach."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest
from aiohttp.abc import ResolveResult

from perdure.domain.errors import InvalidInput, ModelError
from perdure.llm.driver import ProviderConfig
from perdure.llm.http import Http
from perdure.llm.registry import make_driver
from perdure.net import addresses
from perdure.net.addresses import GuardedResolver, SystemResolver, is_refused_host


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.170.2",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "::ffff:169.254.169.254",
        "[::ffff:a9fe:a9fe]",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fe80::1",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "metadata.google.internal",
        "METADATA.google.internal.",
        "metadata",
    ],
)
def test_the_metadata_service_of_a_cloud_is_refused_in_every_notation(host: str) -> None:
    assert is_refused_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "::1",
        "10.0.0.7",
        "192.168.1.5",
        "172.16.0.1",
        "fd12:3456::1",
        "gpu-box",
        "api.openai.com",
        "8.8.8.8",
        "models.example.com",
        "::ffff:127.0.0.1",
        "1.2.3.4.example.com",
        "2130706433",
        "7eleven.example",
    ],
)
def test_all_other_addresses_are_allowed(host: str) -> None:
    assert not is_refused_host(host)


@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:169.254.169.254]", "2852039166"])
@pytest.mark.parametrize(
    "provider_type",
    ["openai", "openai_completions", "anthropic", "gemini", "bedrock", "azure_openai", "ollama"],
)
async def test_no_driver_is_created_for_it(provider_type: str, host: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make_driver(ProviderConfig(provider_type, f"http://{host}/v1"), Http())
    assert caught.value.field == "base_url"


class _Points:
    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=each, port=port, family=family, proto=0, flags=0)
            for each in self.addresses
        ]

    async def close(self) -> None:
        pass


async def test_a_name_that_resolves_to_it_is_refused_at_the_call() -> None:
    resolver = GuardedResolver()
    resolver._inner = _Points("169.254.169.254")  # type: ignore[assignment]
    with pytest.raises(ModelError) as caught:
        await resolver.resolve("rebound.example.com", 80)
    assert not caught.value.transient
    resolver._inner = _Points("169.254.169.254", "10.0.0.7")  # type: ignore[assignment]
    assert [each["host"] for each in await resolver.resolve("rebound.example.com", 80)] == ["10.0.0.7"]
    await resolver.close()


async def test_the_system_resolves_names() -> None:
    assert {each["host"] for each in await GuardedResolver().resolve("localhost", 80)} <= {"127.0.0.1", "::1"}


async def test_a_slow_lookup_does_not_delay_others(monkeypatch: pytest.MonkeyPatch) -> None:
    real, over = socket.getaddrinfo, threading.Event()

    def slow(host: str, *args: Any, **kwargs: Any) -> Any:
        if host.startswith("slow"):
            over.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "nobody knows")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    resolver = SystemResolver()
    waiting = [asyncio.ensure_future(resolver.resolve(f"slow{number}.test", 80)) for number in range(50)]
    assert await resolver.resolve("localhost", 80)
    waiting.pop().cancel()
    over.set()
    assert all(isinstance(each, OSError) for each in await asyncio.gather(*waiting, return_exceptions=True))


async def test_lookups_are_limited_and_those_of_the_same_name_share_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over, asked = threading.Event(), list[str]()

    def silent(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        over.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "nobody knows")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    monkeypatch.setattr(addresses, "LOOKUP_WAIT", 0.05)
    resolver, before = SystemResolver(), threading.active_count()
    names = ["same.test"] * 500 + [f"name{number}.test" for number in range(500)]
    waiting = [asyncio.ensure_future(resolver.resolve(name, 80)) for name in names]
    with pytest.raises(OSError, match="name servers do not answer"):
        await waiting[-1]
    assert threading.active_count() - before <= addresses.MAX_LOOKUPS
    over.set()
    assert all(isinstance(each, OSError) for each in await asyncio.gather(*waiting, return_exceptions=True))
    assert asked.count("same.test") == 1
    monkeypatch.undo()
    assert await resolver.resolve("localhost", 80)


async def test_a_call_to_such_a_name_fails_with_a_readable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(
        self: GuardedResolver, host: str, port: int = 0, family: int = 0
    ) -> list[ResolveResult]:
        raise ModelError("no place for a model", code="provider_unavailable")

    monkeypatch.setattr(GuardedResolver, "resolve", resolve)
    http = Http(connect_timeout=2, read_timeout=2)
    with pytest.raises(ModelError, match="no place for a model"):
        await make_driver(
            ProviderConfig("openai_completions", "http://rebound.example.com/v1"), http
        ).list_models()
    await http.close()
