"""The network configuration of the shell's sandbox."""

from __future__ import annotations

import pytest

from perdure.domain.network import NetworkRules
from perdure.tools.shell_network import network_for
from tests.sites import Names

FORBIDDEN = (
    "169.254.169.254", "169.254.170.2", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518",
    "metadata.google.internal", "METADATA", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fe80::1",
    "100.100.100.200", "168.63.129.16", "::ffff:169.254.169.254", "::ffff:0:a9fe:a9fe", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "2002:a9fe:a9fe::", "::a9fe:a9fe",
    "2001:db8::5efe:a9fe:a9fe", "fd00:c1::a9fe:a9fe", "2001:db8:64::169.254.169.254",
)  # fmt: skip


def _hosts(allowed: list[str]) -> list[str]:
    return [url.partition("://")[2] for url in allowed[::2]]


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("host", FORBIDDEN)
async def test_the_shell_never_reaches_metadata_services_by_address(host: str, private: bool) -> None:
    names = Names(site_test=["93.184.215.14"])
    rules = NetworkRules(allowed=((host, "site.test"),), private=private)
    given, _ = await network_for(rules, f"curl http://{host}/", names)
    assert given is not None
    assert (_hosts(given.allow), given.block_private_ips) == (["site.test"], True)
    assert await network_for(NetworkRules(allowed=((host,),), private=private), host, names) == (None, [])


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("address", [each for each in FORBIDDEN if "meta" not in each.lower()])
async def test_the_shell_never_reaches_metadata_services_by_name(address: str, private: bool) -> None:
    names = Names(evil_test=[address], site_test=["93.184.215.14"])
    rules = NetworkRules(allowed=(("evil.test", "site.test"),), private=private)
    given, _ = await network_for(rules, f"curl http://evil.test/ http://{address}/", names)
    assert given is not None
    assert (_hosts(given.allow), given.block_private_ips) == (["site.test"], True)


async def test_a_name_is_reached_only_with_the_shells_own_check_of_its_address() -> None:
    """The shell looks the name up again, and whoever owns it may have pointed it elsewhere by then."""
    for private in (True, False):
        names = Names(evil_test=["93.184.215.14"], inside_test=["10.0.0.1"], localhost=["127.0.0.1"])
        hosts = ("evil.test", "inside.test", "10.0.0.3", "localhost", "gone.test")
        rules = NetworkRules(allowed=(hosts,), private=private)
        for command in ("curl evil.test", "curl inside.test", "curl 10.0.0.1", "curl localhost", "./run.sh"):
            given, _ = await network_for(rules, command, names)
            assert given is not None
            by_name = {host for host in _hosts(given.allow) if host.endswith(".test")}
            assert given.block_private_ips or not by_name, (private, command)
            assert by_name or private, command


async def test_private_addresses_are_reached_by_number_if_the_command_spells_them_out() -> None:
    names = Names(inside_test=["10.0.0.1"], six_test=["fd00::1"], site_test=["93.184.215.14"])
    rules = NetworkRules(allowed=(("inside.test", "six.test", "site.test", "10.0.0.3"),), private=True)
    for address in ("10.0.0.1", "10.0.0.3", "fd00::1"):
        given, notes = await network_for(rules, f"curl http://[{address}]/", names)
        assert given is not None
        assert _hosts(given.allow) == ["10.0.0.3", "10.0.0.1", "[fd00::1]"]
        assert (given.block_private_ips, notes) == (False, [])
    given, notes = await network_for(rules, "curl http://inside.test/ http://six.test/", names)
    assert given is not None
    assert _hosts(given.allow) == ["site.test"]
    assert [note.partition("curl ")[2] for note in notes] == [
        "-H 'Host: inside.test' http://10.0.0.1/",
        "-H 'Host: six.test' http://[fd00::1]/",
    ]
    _, notes = await network_for(rules, "curl http://site.test/ http://10.0.0.3/", names)
    assert "two commands" in notes[0]


async def test_of_private_addresses_the_shell_reaches_only_those_of_the_networks_that_are_named() -> None:
    names = Names(in_test=["10.0.0.1"], out_test=["192.168.0.1"], localhost=["::1"])
    hosts = ("in.test", "out.test", "10.0.0.3", "192.168.0.2", "localhost")
    rules = NetworkRules(allowed=(hosts,), private=("10.0.0.0/8", "127.0.0.0/8"))
    given, _ = await network_for(rules, "curl http://10.0.0.1/", names)
    assert given is not None
    assert set(_hosts(given.allow)) == {"10.0.0.3", "10.0.0.1"}
    for command in ("curl http://192.168.0.2/", "curl http://out.test/", "curl http://localhost/"):
        given, _ = await network_for(rules, command, names)
        assert given is not None, command
        assert given.block_private_ips, command


@pytest.mark.parametrize("private", [True, False])
async def test_a_blocked_address_is_blocked_behind_every_name(private: bool) -> None:
    names = Names(inside_test=["10.0.0.1"], site_test=["93.184.215.14"])
    hosts = ("inside.test", "site.test", "10.0.0.1", "93.184.215.14")
    rules = NetworkRules(allowed=(hosts,), blocked=("10.0.0.1", "93.184.215.14"), private=private)
    assert await network_for(rules, "curl 10.0.0.1", names) == (None, [])
