"""A registered MCP server is never at an address that is refused, whatever its name resolves to."""

from __future__ import annotations

import socket

import pytest
from aiohttp.abc import ResolveResult

from perdure.app.mcp_checks import check_urls
from perdure.app.mcp_offers import fault_of
from perdure.domain.errors import InvalidInput
from perdure.domain.mcp import McpLost, McpUnreachable
from perdure.domain.network import PrivateAddresses
from tests.adversarial.test_addresses import PRIVATE_HOSTS
from tests.sites import Names


class Both(Names):
    """Names that have two addresses each: those of `one` and `two`."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [*await super().resolve("one", port), *await super().resolve("two", port)]


async def refusal(url: str, private: PrivateAddresses, names: Names) -> str | None:
    """The code of the refusal; None if the URL may be saved."""
    try:
        await check_urls({"url": url}, private, names)
    except InvalidInput as error:
        return error.code if error.field == "url" else f"no field: {error}"
    return None


@pytest.mark.parametrize("host", sorted(set(PRIVATE_HOSTS) - {"localhost", "LOCALHOST."}))
async def test_no_spelling_of_a_private_address_is_saved(host: str) -> None:
    assert await refusal(f"http://{host}:8080/mcp", False, Names()) in (
        "mcp_address_refused",
        "invalid_mcp_url",
    )


@pytest.mark.parametrize(
    ("address", "private", "code"),
    [
        ("93.184.215.14", False, None),
        ("10.0.0.1", False, "mcp_address_refused"),
        ("::ffff:10.0.0.1", False, "mcp_address_refused"),
        ("10.0.0.1", True, None),
        ("10.0.0.1", ("10.0.0.0/8",), None),
        ("::ffff:10.0.0.1", ("10.0.0.0/8",), None),
        ("11.0.0.1", ("10.0.0.0/8",), None),
        ("192.168.0.1", ("10.0.0.0/8",), "mcp_address_refused"),
        ("169.254.169.254", True, "mcp_address_refused"),
        ("fd00:ec2::254", True, "mcp_address_refused"),
        ("169.254.169.254", ("0.0.0.0/0",), "mcp_address_refused"),
    ],
)
async def test_what_a_name_resolves_to_decides(
    address: str, private: PrivateAddresses, code: str | None
) -> None:
    assert await refusal("https://mcp.test/mcp", private, Names(mcp_test=[address])) == code


async def test_one_public_address_is_enough_but_one_metadata_service_is_too_much() -> None:
    assert await refusal("https://mcp.test/", False, Both(one=["10.0.0.1"], two=["93.184.215.14"])) is None
    mixed = Both(one=["169.254.169.254"], two=["93.184.215.14"])
    assert await refusal("https://mcp.test/", True, mixed) == "mcp_address_refused"


async def test_a_name_without_an_address_may_be_saved_and_is_checked_at_each_call() -> None:
    class Nobody(Names):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            raise OSError("no such name")

    assert await refusal("https://mcp.test/mcp", False, Nobody()) is None


def test_faults_are_told_by_their_causes_and_else_by_their_words() -> None:
    def caused(cause: Exception) -> str:
        error = McpUnreachable("the MCP server cannot be reached")
        error.__cause__ = cause
        return fault_of(error).code

    assert caused(socket.gaierror()) == "name_not_found"
    assert caused(ConnectionRefusedError()) == "connection_refused"
    assert caused(TimeoutError()) == "too_slow"
    assert caused(OSError()) == "unreachable"
    said = {
        "mcp.test is not a public host": "address_refused",
        "mcp.test did not answer within 30 seconds": "too_slow",
        "mcp.test answered with status 405": "wrong_path",
        "mcp.test speaks no revision of the protocol": "not_mcp",
        "local cannot be started: no such file": "not_started",
        "something else": "unreachable",
    }
    assert {words: fault_of(McpLost(words)).code for words in said} == said
