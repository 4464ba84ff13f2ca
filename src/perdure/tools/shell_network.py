"""The hosts that one command of the shell may reach.

bashkit looks names up itself, after us, and its owner can let a name point to another place in between (DNS
rebinding). Its own check at that moment refuses private addresses and metadata services, but it cannot except
the private addresses that a server allows. So a command reaches hosts by name with that check, or else the
private addresses that it spells out, without any name.
"""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp.abc import AbstractResolver

from perdure.domain.network import NetworkRules
from perdure.net.addresses import (
    is_public_address,
    is_reachable,
    is_refused_address,
    is_refused_host,
    look_up_all,
    plain_address,
)
from perdure.sandbox.shell import Network

LOOK_UP = 5.0
"""Seconds for the names of the allowed hosts."""

LOCALHOST = "localhost"
"""The one name that nobody can point elsewhere."""


async def network_for(
    rules: NetworkRules, command: str, resolver: AbstractResolver
) -> tuple[Network | None, list[str]]:
    """Return the sandbox's network configuration for a command, and notes for the model.

    It is None unless hosts are allowed by name: the sandbox does not support patterns. A host that has a
    blocked address, a link-local one or a metadata service's is left out.
    """
    hosts = [host for host in rules.named() if not is_refused_host(host)]
    numbers = filter(None, map(plain_address, hosts))
    addresses = [
        number for number in numbers if not _is_barred(number, rules) and is_reachable(number, rules.private)
    ]
    names = [host for host in hosts if plain_address(host) is None]
    found = await look_up_all(names, resolver, LOOK_UP)
    names = [name for name in names if not any(_is_barred(each, rules) for each in found.get(name, ()))]
    if not rules.private:
        return _network(names, private=False), []
    inside = {
        name: each
        for name in names
        for each in found.get(name, ())
        if not is_public_address(each) and is_reachable(each, rules.private)
    }
    # The shell looks this name up again, so each of its addresses must be one that may be reached.
    here = [
        name
        for name in inside
        if name == LOCALHOST and all(is_reachable(each, rules.private) for each in found[name])
    ]
    fixed = [*addresses, *inside.values(), *here]
    outside = [name for name in names if name not in inside]
    if any(host in command for host in fixed):
        both = any(name in command for name in outside)
        return _network(fixed, private=True), [_APART] if both else []
    notes = [_by_address(name, address) for name, address in inside.items() if name in command]
    return _network(outside, private=False), notes


def _is_barred(address: str, rules: NetworkRules) -> bool:
    plain = plain_address(address)
    return plain is None or is_refused_address(address) or rules.blocks(plain)


def _network(hosts: Iterable[str], *, private: bool) -> Network | None:
    spelled = [f"[{host}]" if ":" in host else host for host in dict.fromkeys(hosts)]
    if not spelled:
        return None
    return Network(
        [f"{scheme}://{host}" for host in spelled for scheme in ("https", "http")],
        block_private_ips=not private,
    )


_APART = (
    "a command that reaches a private address by its number reaches no host by name: use two commands, one "
    "for each"
)


def _by_address(name: str, address: str) -> str:
    host = f"[{address}]" if ":" in address else address
    return (
        f"{name} has the private address {address}, which the shell reaches only by number: "
        f"curl -H 'Host: {name}' http://{host}/"
    )
