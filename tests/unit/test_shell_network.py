"""The network configuration of the shell's sandbox."""

from __future__ import annotations

from perdure.domain.network import NetworkRules
from perdure.tools.bashkit_shell import network_for


def test_the_shell_never_reaches_metadata_services_whatever_is_allowed() -> None:
    hosts = (
        "169.254.169.254",
        "2852039166",
        "metadata.google.internal",
        "fd00:ec2::254",
        "intranet",
        "10.0.0.1",
    )
    given = network_for(NetworkRules(allowed=(hosts,), private=True))
    assert given is not None
    assert given.allow == ["https://intranet", "http://intranet", "https://10.0.0.1", "http://10.0.0.1"]
    assert network_for(NetworkRules(allowed=(("169.254.169.254",),), private=True)) is None
