"""Private addresses are never reached: in any spelling, by redirects, or by DNS rebinding."""

from __future__ import annotations

import socket

import httpx
import pytest
from aiohttp import web
from aiohttp.abc import ResolveResult

from perdure.domain.errors import ModelError, ToolError
from perdure.domain.network import NetworkRules, combine
from perdure.domain.sessions import NetworkAccess
from perdure.net import addresses, web_client
from perdure.net.addresses import GuardedResolver, is_reachable
from perdure.net.web_client import fetch
from tests.adversarial.attack import done, refused
from tests.server import post
from tests.sites import INSIDE, PUBLIC, Names, Site, serving
from tests.talk import call, new_talk

PRIVATE_HOSTS = [
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "localhost",
    "LOCALHOST.", "0",
    "0.0.0.0",
    "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]",
    "[64:ff9b:1::a00:1]",
    "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fe80::1]", "[fec0::1]", "[fc00::1]", "[ff02::1]", "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1", "169.254.169.254", "0xa9fea9fe", "100.64.0.1", "100.100.100.200", "168.63.129.16",
    "192.0.0.192", "224.0.0.1",
    "255.255.255.255", "metadata.google.internal", "[fd00:ec2::254]", "\uff11\uff12\uff17.0.0.1",
    "127.0.0.1.",
]  # fmt: skip

ODD_HOSTS = [
    "\u2460\u2461\u2466.0.0.1", "127\u3002\u0030\u3002\u0030\u30021", "loc\u24d0lhost",
    "\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54", "localhost\u3002",
    "%31%32%37.0.0.1", "127.0.0.%31", "127.0.0.1%00.example.com", "[fe80::1%25lo]", "[::1%25lo]",
    "[::ffff:127.0.0.1%25lo]", "0127.0.0.1",
    "127.000.000.001", "127.0.1", "0x7F.0X0.0x0.0x1", "0x7f000001.", "4294967296", "2130706433.",
    "127.0.0.1.", "127.0.0.1..",
    "1.0.0.127.in-addr.arpa",
    "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::127.0.0.1]", "[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]",
    "[2002:7f00:0001::1]",
    "localhost.localdomain", "127.0.0.1.nip.invalid", "", ".", "..", "a" * 64, "a." * 130, "-", "_",
]  # fmt: skip


@pytest.mark.parametrize("host", sorted({*PRIVATE_HOSTS, *ODD_HOSTS}))
async def test_no_spelling_of_a_private_address_is_reached(site: Site, host: str) -> None:
    site.answers["/"] = web.Response(text="secret")
    with pytest.raises(ToolError):
        await fetch(f"http://{host}:{site.port}/", PUBLIC)
    assert site.asked == []


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[fd00:ec2::254]",
        "metadata.google.internal",
        "168.63.129.16",
        "[::ffff:169.254.169.254]",
        "[::ffff:0:169.254.169.254]",
        "[64:ff9b::169.254.169.254]",
        "[64:ff9b:1:a9fe:a9:fe00::]",
        "[64:ff9b:1::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        "[fd00:ec2::23]",
        "[fe80::a9fe:a9fe]",
        "[fd00:c1::a9fe:a9fe]",
        "[2001:db8:64::169.254.169.254]",
        "0251.0376.0251.0376",
        "2852039166",
        "169.254.170.2",
    ],
)
async def test_metadata_services_are_never_reached_even_if_private_addresses_are_allowed(host: str) -> None:
    with pytest.raises(ToolError, match="public"):
        await fetch(f"http://{host}/latest/meta-data/", INSIDE)


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", True),
        ("[::ffff:127.0.0.1]", True),
        ("[64:ff9b::127.0.0.1]", True),
        ("0x7f000001", True),
        ("[::1]", False),
        ("[::]", False),
        ("[fd00::1]", False),
        ("[::ffff:10.0.0.1]", False),
        ("[64:ff9b:1:7f00:1::a00:1]", False),
        ("10.0.0.1", False),
        ("127.0.0.2", False),
        ("169.254.169.254", False),
        ("[::ffff:169.254.169.254]", False),
        ("100.100.100.200", False),
        ("93.184.215.14", True),
    ],
)
def test_only_the_private_networks_that_the_setting_names_may_be_reached(host: str, reached: bool) -> None:
    assert is_reachable(host, ("127.0.0.1/32", "169.254.0.0/16", "100.100.0.0/16")) is reached


def test_a_network_of_all_addresses_opens_no_metadata_service() -> None:
    everything = ("0.0.0.0/0", "::/0")
    assert is_reachable("192.168.1.1", everything)
    assert not any(is_reachable(host, everything) for host in ("169.254.169.254", "fd00:ec2::254", "fe80::1"))


async def test_a_page_in_a_named_network_is_fetched_and_one_beside_it_is_not(site: Site) -> None:
    site.answers["/"] = web.Response(text="hello")
    names = Names(in_test=["127.0.0.1"], out_test=["127.0.0.2"])
    rules = NetworkRules(private=("127.0.0.1/32",))
    assert (await fetch(site.url("/", "in.test"), rules, resolver=names)).body == b"hello"
    with pytest.raises(ToolError, match="not a public host"):
        await fetch(site.url("/", "out.test"), rules, resolver=names)


async def test_a_name_that_resolves_to_a_private_address_now_or_later_is_refused(site: Site) -> None:
    site.answers["/"] = web.Response(text="secret")
    with pytest.raises(ToolError, match="not a public host"):
        await fetch(site.url("/", "inside.test"), PUBLIC, resolver=Names(inside_test=["127.0.0.1"]))
    names = Names(rebind_test=["192.0.2.1", "127.0.0.1"])
    with pytest.raises(ToolError):
        await fetch(site.url("/", "rebind.test"), PUBLIC, resolver=names)
    assert names.asked == ["rebind.test"]
    assert site.asked == []


async def test_the_connection_uses_the_checked_address_and_the_name_is_resolved_once(
    site: Site,
) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers["Host"])
        return web.Response(text="hello")

    site.answers["/"] = answer
    names = Names(pinned_test=["127.0.0.1", "127.0.0.2"])
    page = await fetch(site.url("/", "pinned.test"), INSIDE, resolver=names)
    assert (page.body, names.asked, seen) == (b"hello", ["pinned.test"], [f"pinned.test:{site.port}"])


async def test_of_several_addresses_only_the_public_ones_are_tried() -> None:
    class Mixed(Names):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            return [*await super().resolve("one", port), *await super().resolve("two", port)]

    checked = web_client.checked_resolver(Mixed(one=["10.0.0.1"], two=["93.184.215.14"]), PUBLIC)
    assert [each["host"] for each in await checked.resolve("mixed.test")] == ["93.184.215.14"]


async def test_a_redirect_is_checked_like_the_first_address(site: Site) -> None:
    async with serving() as hidden:
        hidden.answers["/"] = web.Response(text="secret")
        places = [
            "file:///etc/passwd",
            "ftp://example.com/",
            "gopher://127.0.0.1/",
            "http://user:pw@127.0.0.1/",
            "http://127.0.0.1:22/",
            "http://169.254.169.254/",
            "http://0xa9fea9fe/",
            "//[fd00:ec2::254]/",
            "http://blocked.test/",
            "http://[",
            "",
        ]
        rules = NetworkRules(private=True, blocked=("blocked.test",))
        for place in places:
            site.answers["/go"] = web.Response(status=302, headers={"Location": place})
            with pytest.raises(ToolError):
                await fetch(site.url("/go"), rules)
        assert hidden.asked == []


async def test_a_redirect_to_a_name_with_a_private_address_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first host counts as public here; the second one is checked as usual."""
    real = addresses.is_public_address
    monkeypatch.setattr(
        addresses, "is_public_address", lambda address: address == "127.0.0.1" or real(address)
    )
    async with serving() as hidden:
        hidden.answers["/"] = web.Response(text="secret")
        for host in ("inside.test", "127.0.0.2", "[::1]", "127.2"):
            site.answers["/go"] = web.Response(status=307, headers={"Location": hidden.url("/", host)})
            with pytest.raises(ToolError, match="public"):
                await fetch(
                    site.url("/go"),
                    PUBLIC,
                    resolver=Names(inside_test=["127.0.0.2"], **{"127_2": ["127.0.0.2"]}),
                )
        assert hidden.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://example.com/", "example.com", "http://", "http:///x",
        "javascript:alert(1)",
        "http://a:b@example.com/",
        "http://example.com:22/", "http://example.com:25/", "http://example.com:0/",
        "http://example.com:99999/",
        "http://example.com/" + "x" * 3000, "data:text/html,x", "unix:///run/x.sock",
    ],
)  # fmt: skip
async def test_only_web_addresses_are_fetched(url: str) -> None:
    with pytest.raises(ToolError):
        await fetch(url, PUBLIC, resolver=Names())


# --- spellings that only some parsers understand
# -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        "http://public.test@127.0.0.1:{port}/", "http://public.test:80@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}#@public.test/",
        "http://127.0.0.1:{port}?@public.test/", "http://public.test\\@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}\\@public.test/",
        "http:/127.0.0.1:{port}/", "http:127.0.0.1:{port}/", "http:///127.0.0.1:{port}/",
        "http:\\\\127.0.0.1:{port}\\",
        "//127.0.0.1:{port}/",
        " http://127.0.0.1:{port}/", "http://\t127.0.0.1:{port}/", "ht\ntp://127.0.0.1:{port}/",
        "http://127.0.0.1\r\n:{port}/",
        "http://127.0.0.1:{port}/\r\nX-Evil: 1", "HTTP://127.0.0.1:{port}/", "http://[127.0.0.1]:{port}/",
        "http://127.0.0.1:{port}:80/",
        "http://127.0.0.1:+{port}/", "http://127.0.0.1: {port}/", "http://[::1]:{port}]/",
        "http://public.test,127.0.0.1:{port}/",
        "jar:http://127.0.0.1:{port}/!/", "view-source:http://127.0.0.1:{port}/",
        "http+unix://127.0.0.1:{port}/",
        "ws://127.0.0.1:{port}/",
    ],
)  # fmt: skip
async def test_no_odd_url_reaches_this_machine(site: Site, written: str) -> None:
    site.answers["/"] = web.Response(text="secret")
    with pytest.raises(ToolError):
        await fetch(written.format(port=site.port), PUBLIC, resolver=Names(public_test=["192.0.2.1"]))
    assert site.asked == []


async def test_a_name_that_changes_its_address_between_two_redirects_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address counts as public. The redirect goes to the same host, which has moved by then."""
    real = addresses.is_public_address
    monkeypatch.setattr(
        addresses, "is_public_address", lambda address: address == "127.0.0.1" or real(address)
    )
    site.answers["/"] = web.Response(status=302, headers={"Location": "/inside"})
    site.answers["/inside"] = web.Response(text="secret")
    names = Names(rebind_test=["127.0.0.1", "127.0.0.2"])
    with pytest.raises(ToolError, match="not a public host"):
        await fetch(site.url("/", "rebind.test"), PUBLIC, resolver=names)
    assert (site.asked, names.asked) == (["/"], ["rebind.test"] * 2)


async def test_no_header_can_be_injected_into_a_request(site: Site) -> None:
    seen: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(text="x")

    for path in ("/%0d%0aX-Evil:%201", "/a%20HTTP/1.1%0d%0aX-Evil:%201"):
        site.answers[path.replace("%0d%0a", "\r\n").replace("%20", " ")] = answer
        await fetch(site.url(path), INSIDE)
    assert len(seen) == 2
    assert not any("x-evil" in headers for headers in seen)


# --- through the model and through settings
# ----------------------------------------------------------------------------


async def test_the_model_learns_nothing_about_private_hosts(each: httpx.AsyncClient) -> None:
    talk = await new_talk(each, capabilities=[{"ref": "web_fetch"}])
    port = each.base_url.port
    urls = [
        f"http://{host}:{port}/health"
        for host in ("127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]", "[fe80::1%25lo]")
    ]
    urls += [f"file:///etc/passwd#{port}", "gopher://127.0.0.1/", "http://169.254.169.254/latest/meta-data/"]
    answers = await done(talk, *(call("web_fetch", url=url) for url in urls))
    assert [answer["success"] for answer in answers] == [False] * len(urls)
    assert "running_sessions" not in str(answers)
    # The model must not learn whether the port is open either.
    assert await refused(talk, "web_fetch", url="http://127.0.0.1:65001/health") == answers[0]["error"]


METADATA = [
    "169.254.169.254", "\uff11\uff16\uff19.254.169.254", "\u2460\u2465\u2468.254.169.254",
    "169\u3002254\u3002169\u3002254",
    "169.254.169.254.", "0xa9fea9fe",
    "0xa9.0xfe.0xa9.0xfe", "2852039166", "0251.0376.0251.0376", "169.254.43518", "[::ffff:a9fe:a9fe]",
    "[fd00:ec2::254]",
    "[fe80::a9fe:a9fe%25eth0]", "metadata.google.internal", "metadata\u3002google\u3002internal",
    "MetaData.Google.Internal.",
    "metadata.goog",
    "\uff4d\uff45\uff54\uff41\uff44\uff41\uff54\uff41.google.internal", "100.100.100.200", "168.63.129.16",
    "192.0.0.192",
    "[64:ff9b::a9fe:a9fe]",
]  # fmt: skip


@pytest.mark.parametrize("host", METADATA)
@pytest.mark.parametrize(
    "provider_type",
    ["openai", "openai_completions", "anthropic", "gemini", "bedrock", "azure_openai", "ollama"],
)
async def test_no_provider_can_point_to_a_metadata_service(
    one: httpx.AsyncClient, provider_type: str, host: str
) -> None:
    for written in (f"http://{host}/v1", f"https://{host}:443/v1", f"http://{host}"):
        answer = await one.post(
            "/v1/providers", json={"name": "Cloud", "provider_type": provider_type, "base_url": written}
        )
        assert (answer.status_code, answer.json().get("field")) == (400, "base_url"), (written, answer.text)


@pytest.mark.parametrize(
    "written",
    [
        "file:///etc/passwd", "gopher://127.0.0.1/", "ftp://127.0.0.1/", "http://user:pw@example.com/v1",
        "http://example.com@169.254.169.254/",
        "http://", "http:///v1", "//169.254.169.254/v1", "http:169.254.169.254", "http://[", "http://a b/",
        "http://example.com:99999/",
        "http://example.com\\@169.254.169.254/", "http://example.com/\r\nX: 1", "javascript:1",
        "unix:/run/x.sock",
        "http://169.254.169.254\t/",
    ],
)  # fmt: skip
async def test_only_plain_urls_are_accepted_for_models(one: httpx.AsyncClient, written: str) -> None:
    answer = await one.post(
        "/v1/providers", json={"name": "Odd", "provider_type": "openai", "base_url": written}
    )
    assert answer.status_code == 400, answer.text


async def test_a_model_at_an_invalid_host_name_fails_with_a_clear_error(
    one: httpx.AsyncClient,
) -> None:
    for host in ("a" * 70, "a..b", "x." * 120 + "invalid"):
        body = {
            "name": "Odd",
            "provider_type": "openai_completions",
            "base_url": f"http://{host}.invalid/v1",
            "api_key": "k",
        }
        provider = await post(one, "/v1/providers", body)
        answer = await one.post(f"/v1/providers/{provider['id']}/sync-models")
        assert answer.json()["code"].startswith("provider_"), answer.text


class _Moving:
    """A resolver that returns another address at each lookup."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    async def resolve(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        address = self.addresses.pop(0)
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        pass


async def test_a_models_addresses_are_checked_at_every_resolution() -> None:
    resolver = GuardedResolver()
    moving = _Moving("192.0.2.1", "169.254.169.254", "::ffff:169.254.169.254", "192.0.2.1")
    resolver._inner = moving  # type: ignore[assignment]
    assert (await resolver.resolve("model.test", 80))[0]["host"] == "192.0.2.1"
    for _ in range(2):
        with pytest.raises(ModelError):
            await resolver.resolve("model.test", 80)
    assert (await resolver.resolve("model.test", 80))[0]["host"] == "192.0.2.1"


@pytest.mark.parametrize(
    "name",
    [
        "stra\u00dfe.test",
        "fa\u00df.STRASSE.test",
        "\u03a3\u0391\u03a3.test",
        "\u24d4vil.test",
        "\uff45\uff56\uff49\uff4c\u3002test",
    ],
)
@pytest.mark.parametrize("below", ["", "*."])
async def test_a_name_outside_ascii_is_blocked_as_it_is_looked_up(site: Site, name: str, below: str) -> None:
    site.answers["/"] = web.Response(text="secret")
    rules = combine([NetworkAccess(blocked=(f"{below}{name}",))])
    rules = NetworkRules(rules.allowed, rules.blocked, private=True)
    host = f"a.{name}" if below else name
    with pytest.raises(ToolError, match="not one of the hosts"):
        await fetch(site.url("/", host), rules, resolver=Names())
    with pytest.raises(ToolError, match="cannot be fetched"):
        await fetch(site.url("/", "other.test"), rules, resolver=Names())
