"""The network configuration of the shell's sandbox."""

from __future__ import annotations

import pytest

from perdure.domain.network import NetworkRules
from perdure.tools.bashkit_shell import network_for
from tests.sites import Names

FORBIDDEN = (
    "169.254.169.254", "169.254.170.2", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518",
    "metadata.google.internal", "METADATA", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fe80::1",
    "100.100.100.200", "168.63.129.16", "::ffff:169.254.169.254", "::ffff:0:a9fe:a9fe", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "2002:a9fe:a9fe::", "::a9fe:a9fe",
    "2001:db8::5efe:a9fe:a9fe",
)  # fmt: skip


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("host", FORBIDDEN)
async def test_the_shell_never_reaches_metadata_services_by_address(host: str, private: bool) -> None:
    names = Names(intranet=["10.0.0.1"])
    given = await network_for(NetworkRules(allowed=((host, "intranet"),), private=private), names)
    assert given is not None
    assert given.allow == ["https://intranet", "http://intranet"]
    assert await network_for(NetworkRules(allowed=((host,),), private=private), names) is None


@pytest.mark.parametrize("address", [each for each in FORBIDDEN if "meta" not in each.lower()])
async def test_the_shell_never_reaches_metadata_services_by_name(address: str) -> None:
    names = Names(evil_test=[address], both_test=["10.0.0.2"], intranet=["10.0.0.1"])
    hosts = ("evil.test", "intranet", "10.0.0.3")
    given = await network_for(NetworkRules(allowed=(hosts,), private=True), names)
    assert given is not None
    assert not given.block_private_ips
    assert [url.partition("://")[2] for url in given.allow[::2]] == ["intranet", "10.0.0.3"]


async def test_the_shells_own_check_of_addresses_stays_on_where_none_is_private() -> None:
    names = Names(site_test=["93.184.215.14"])
    rules = NetworkRules(allowed=(("site.test", "gone.test"),), private=True)
    given = await network_for(rules, names)
    assert given is not None
    assert given.block_private_ips
    assert given.allow == ["https://site.test", "http://site.test"]


async def test_a_blocked_address_is_blocked_behind_every_name() -> None:
    names = Names(intranet=["10.0.0.1"])
    rules = NetworkRules(allowed=(("intranet",),), blocked=("10.0.0.1",), private=True)
    assert await network_for(rules, names) is None
