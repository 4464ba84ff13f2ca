"""Fetching pages: what comes back, and all the ways in which a page may try to be somewhere it must not."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from perdure.capabilities import web_client
from perdure.capabilities.base import ToolContext
from perdure.capabilities.sandbox import Sandbox
from perdure.capabilities.web_client import Page, fetch
from perdure.capabilities.web_fetch import WEB_FETCH_TOOL
from perdure.domain.errors import ToolError
from perdure.domain.network import NetworkRules, combine
from perdure.domain.sessions import NetworkAccess

INSIDE = NetworkRules(private=True)
PUBLIC = NetworkRules()
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """A web server on this machine whose answers a test decides; it counts how often it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | web.Response] = {}
        self.asked: list[str] = []
        self.port = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path)
        answer = self.answers[request.path]
        if isinstance(answer, web.Response):  # one answer can be sent once only
            return web.Response(body=answer.body, status=answer.status, headers=answer.headers)
        return await answer(request)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Site]:
    site = Site()
    runner = web.ServerRunner(web.Server(site))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.port = runner.addresses[0][1]
    try:
        yield site
    finally:
        await runner.cleanup()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving() as running:
        yield running


class Names(AbstractResolver):
    """A name service whose answers follow each other; the last one stays."""

    def __init__(self, **names: list[str]) -> None:
        self._names = {name.replace("_", "."): list(addresses) for name, addresses in names.items()}
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        addresses = self._names[host]
        address = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)]

    async def close(self) -> None:
        pass


def html(body: str, **headers: str) -> web.Response:
    return web.Response(body=body.encode(), headers={"Content-Type": "text/html; charset=utf-8", **headers})


async def tool(url: str, rules: NetworkRules = INSIDE, **arguments: object) -> dict[str, object]:
    """What the tool answers."""

    def nothing(*_: object) -> None: ...

    context = ToolContext("", "", "", "", "", None, None, lambda: 0, nothing, nothing, Sandbox(), str, network=rules)  # type: ignore[arg-type]
    value: dict[str, object] = (await WEB_FETCH_TOOL.run(context, {"url": url, **arguments})).value
    return value


# --- pages -----------------------------------------------------------------------------------------------------------

PAGE = """<!doctype html><html><head><title>Pears</title><style>p{}</style><script>evil()</script></head><body><h1>Pears &amp; co</h1>
<p>See <a href="/more">more</a>.<img src="data:image/png;base64,AAAABBBB" alt="a pear"><pre><code>x = 1
</code></pre><table><tr><th>a<th>b<tr><td>1<td>2</table></body></html>"""


async def test_a_page_comes_as_markdown_with_whole_links_and_without_scripts(site: Site) -> None:
    site.answers["/a/page"] = html(PAGE)
    answer = await tool(site.url("/a/page"))
    content = str(answer["content"])
    assert (answer["status"], answer["content_type"]) == (200, "text/html")
    assert "# Pears & co" in content
    assert f"[more]({site.url('/more')})" in content
    assert "| a | b |" in content
    assert "evil" not in content
    assert "AAAA" not in content


async def test_a_page_comes_as_text_or_as_it_is_when_asked(site: Site) -> None:
    site.answers["/page"] = html(PAGE)
    text = str((await tool(site.url("/page"), format="text"))["content"])
    assert "Pears & co" in text
    assert "<" not in text
    assert (await tool(site.url("/page"), format="html"))["content"] == PAGE


async def test_json_and_errors_of_the_server_come_as_they_are(site: Site) -> None:
    site.answers["/data"] = web.json_response({"a": [1]}, status=404)
    answer = await tool(site.url("/data"))
    assert answer["status"] == 404
    assert json.loads(str(answer["content"])) == {"a": [1]}


@pytest.mark.parametrize("kind", ["image/png", "application/pdf", "application/octet-stream", "video/mp4"])
async def test_what_is_no_text_is_refused_in_words(site: Site, kind: str) -> None:
    site.answers["/file"] = web.Response(body=b"\x89PNG", headers={"Content-Type": kind})
    with pytest.raises(ToolError, match=kind):
        await tool(site.url("/file"))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html; charset=utf-8", "é".encode()),
        ("text/html; charset=ISO-8859-1", b"\xe9"),
        ("text/html", b'<meta charset="windows-1252">\xe9'),
        ("text/html", '<meta charset="utf-8"><p>é'.encode()),
        ("text/plain; charset=utf-16le", "é".encode("utf-16-le")),
        ("text/plain", b"\xef\xbb\xbf\xc3\xa9"),
        ("text/plain; charset=punycode", "é".encode()),
        ("text/plain; charset=no-such", "é".encode()),
        ("application/xml", '<?xml version="1.0" encoding="iso-8859-15"?><a>é</a>'.encode("iso-8859-15")),
    ],
)
async def test_letters_come_out_right_whatever_they_are_written_in(site: Site, kind: str, body: bytes) -> None:
    site.answers["/page"] = web.Response(body=body, headers={"Content-Type": kind})
    assert "é" in str((await tool(site.url("/page"), format="html"))["content"])


async def test_pages_that_are_nested_without_end_are_converted_or_refused_quickly(site: Site) -> None:
    site.answers["/deep"] = html("<div>" * 100_000 + "x")
    site.answers["/tables"] = html("<table>" * 20_000 + "<a><b>" * 20_000)
    site.answers["/brackets"] = html("![" * 300_000)
    async with asyncio.timeout(20):
        for path in site.answers:
            with contextlib.suppress(ToolError):
                await tool(site.url(path))


# --- bounds ----------------------------------------------------------------------------------------------------------


async def test_no_more_is_read_than_asked_for(site: Site) -> None:
    site.answers["/long"] = web.Response(text="x" * 3_000_000)
    assert len(str((await tool(site.url("/long")))["content"])) == web_client.MAX_BYTES
    answer = await tool(site.url("/long"), max_bytes=10)
    assert answer["content"] == "x" * 10
    assert "10 bytes" in str(answer["truncated"])
    site.answers["/ten"] = web.Response(text="x" * 10)
    assert "truncated" not in await tool(site.url("/ten"), max_bytes=10)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw"])
async def test_a_bomb_is_never_unpacked(site: Site, encoding: str) -> None:
    packer = zlib.compressobj(9, wbits={"gzip": 31, "deflate": 15, "raw": -15}[encoding])
    bomb = packer.compress(b"0" * 200_000_000) + packer.flush()
    site.answers["/bomb"] = web.Response(
        body=bomb, headers={"Content-Type": "text/plain", "Content-Encoding": "deflate" if encoding == "raw" else encoding}
    )
    page = await fetch(site.url("/bomb"), INSIDE)
    assert (len(page.body), page.truncated) == (web_client.MAX_BYTES, True)


async def test_compressed_pages_are_read_and_broken_or_unknown_ones_refused(site: Site) -> None:
    headers = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    site.answers["/good"] = web.Response(body=gzip.compress(b"hello"), headers=headers)
    site.answers["/bad"] = web.Response(body=b"hello", headers=headers)
    site.answers["/brotli"] = web.Response(body=b"hello", headers=headers | {"Content-Encoding": "br"})
    assert (await tool(site.url("/good")))["content"] == "hello"
    for path in ("/bad", "/brotli"):
        with pytest.raises(ToolError):
            await tool(site.url(path))


async def test_a_server_that_dawdles_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def dawdle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                await response.write(b"x")
                await asyncio.sleep(0.05)
        return response

    monkeypatch.setattr(web_client, "TIME_LIMIT", 0.5)
    site.answers["/slow"] = dawdle
    with pytest.raises(ToolError, match="within"):
        await tool(site.url("/slow"))


async def test_redirects_are_followed_five_times_and_no_more(site: Site) -> None:
    for number in range(7):
        site.answers[f"/{number}"] = web.Response(status=302, headers={"Location": f"/{number + 1}"})
    site.answers["/7"] = web.Response(text="there")
    assert (await tool(site.url("/2")))["url"] == site.url("/7")
    with pytest.raises(ToolError, match="more than 5 times"):
        await tool(site.url("/1"))


# --- where it may not go ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "localhost", "LOCALHOST.", "0", "0.0.0.0",
        "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::a00:1]",
        "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fe80::1]", "[fec0::1]", "[fc00::1]", "[ff02::1]", "10.0.0.1", "172.16.0.1",
        "192.168.1.1", "169.254.169.254", "0xa9fea9fe", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1",
        "255.255.255.255", "metadata.google.internal", "[fd00:ec2::254]", "\uff11\uff12\uff17.0.0.1", "127.0.0.1.",
    ],
)  # fmt: skip
async def test_no_spelling_of_a_private_address_is_reached(site: Site, host: str) -> None:
    site.answers["/"] = web.Response(text="secret")
    with pytest.raises(ToolError):
        await fetch(f"http://{host}:{site.port}/", PUBLIC)
    assert site.asked == []


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fd00:ec2::254]", "metadata.google.internal", "168.63.129.16", "[::ffff:169.254.169.254]"]
)
async def test_metadata_services_are_never_reached_even_where_private_addresses_are(host: str) -> None:
    with pytest.raises(ToolError, match="public"):
        await fetch(f"http://{host}/latest/meta-data/", INSIDE)


async def test_a_name_that_points_inside_is_refused_and_so_is_one_that_changes_its_mind(site: Site) -> None:
    site.answers["/"] = web.Response(text="secret")
    with pytest.raises(ToolError, match="not a public host"):
        await fetch(site.url("/", "inside.test"), PUBLIC, resolver=Names(inside_test=["127.0.0.1"]))
    names = Names(rebind_test=["192.0.2.1", "127.0.0.1"])
    with pytest.raises(ToolError):
        await fetch(site.url("/", "rebind.test"), PUBLIC, resolver=names)
    assert names.asked == ["rebind.test"]
    assert site.asked == []


async def test_the_connection_goes_to_the_address_that_was_checked_and_the_name_is_looked_up_once(site: Site) -> None:
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
        async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
            return [*await super().resolve("one", port), *await super().resolve("two", port)]

    checked = web_client.checked_resolver(Mixed(one=["10.0.0.1"], two=["93.184.215.14"]), PUBLIC)
    assert [each["host"] for each in await checked.resolve("mixed.test")] == ["93.184.215.14"]


async def test_a_redirect_is_checked_like_the_first_address(site: Site) -> None:
    async with serving() as hidden:
        hidden.answers["/"] = web.Response(text="secret")
        places = [
            "file:///etc/passwd", "ftp://example.com/", "gopher://127.0.0.1/", "http://user:pw@127.0.0.1/", "http://127.0.0.1:22/",
            "http://169.254.169.254/", "http://0xa9fea9fe/", "//[fd00:ec2::254]/", "http://blocked.test/", "http://[", "",
        ]  # fmt: skip
        rules = NetworkRules(private=True, blocked=("blocked.test",))
        for place in places:
            site.answers["/go"] = web.Response(status=302, headers={"Location": place})
            with pytest.raises(ToolError):
                await fetch(site.url("/go"), rules)
        assert hidden.asked == []


async def test_a_redirect_to_a_name_that_points_inside_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host counts as public here; the second is what it is."""
    real = web_client.is_public_address
    monkeypatch.setattr(web_client, "is_public_address", lambda address: address == "127.0.0.1" or real(address))
    async with serving() as hidden:
        hidden.answers["/"] = web.Response(text="secret")
        for host in ("inside.test", "127.0.0.2", "[::1]", "127.2"):
            site.answers["/go"] = web.Response(status=307, headers={"Location": hidden.url("/", host)})
            with pytest.raises(ToolError, match="public"):
                await fetch(site.url("/go"), PUBLIC, resolver=Names(inside_test=["127.0.0.2"], **{"127_2": ["127.0.0.2"]}))
        assert hidden.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://example.com/", "example.com", "http://", "http:///x", "javascript:alert(1)", "http://a:b@example.com/",
        "http://example.com:22/", "http://example.com:25/", "http://example.com:0/", "http://example.com:99999/",
        "http://example.com/" + "x" * 3000, "data:text/html,x", "unix:///run/x.sock",
    ],
)  # fmt: skip
async def test_only_web_addresses_are_fetched(url: str) -> None:
    with pytest.raises(ToolError):
        await fetch(url, PUBLIC, resolver=Names())


# --- the session's lists ---------------------------------------------------------------------------------------------


def rules_of(*layers: tuple[tuple[str, ...], tuple[str, ...]]) -> NetworkRules:
    return combine([NetworkAccess(allowed, blocked) for allowed, blocked in layers])


def test_without_lists_every_host_is_permitted() -> None:
    assert combine([None, NetworkAccess()]).permits("example.com")


def test_allowed_lists_narrow_and_blocked_ones_add_up() -> None:
    rules = rules_of((("*.example.com", "example.org"), ()), ((), ("bad.example.com",)), (("a.example.com", "bad.example.com"), ()))
    assert [host for host in ("a.example.com", "b.example.com", "bad.example.com", "example.org") if rules.permits(host)] == [
        "a.example.com"
    ]


@pytest.mark.parametrize(
    ("pattern", "host", "on"),
    [
        ("example.com", "EXAMPLE.com.", True),
        ("example.com", "a.example.com", False),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "badexample.com", False),
        ("https://example.com:8443/path", "example.com", True),
        ("b\u00fccher.example", "xn--bcher-kva.example", True),
        ("xn--bcher-kva.example", "b\u00fccher.example", True),
        ("[::1]", "::1", True),
        ("[2001:db8::1]:80", "2001:DB8:0::1", True),
        ("*", "anything", True),
    ],
)
def test_patterns_mean_what_people_write(pattern: str, host: str, on: bool) -> None:
    assert rules_of(((pattern,), ())).permits(host) is on
    assert rules_of(((), (pattern,))).permits(host) is not on


async def test_a_blocked_address_is_blocked_in_every_spelling_and_behind_every_name(site: Site) -> None:
    site.answers["/"] = web.Response(text="x")
    rules = NetworkRules(private=True, blocked=("127.0.0.1",))
    for host in ("127.0.0.1", "2130706433", "[::ffff:127.0.0.1]", "named.test"):
        with pytest.raises(ToolError):
            await fetch(site.url("/", host), rules, resolver=Names(named_test=["127.0.0.1"]))
    assert site.asked == []


async def test_a_host_that_is_not_allowed_is_not_even_looked_up() -> None:
    names = Names(other_test=["127.0.0.1"])
    with pytest.raises(ToolError, match="may reach"):
        await fetch("http://other.test/", NetworkRules((("good.test",),), private=True), resolver=names)
    assert names.asked == []


async def test_no_cookie_and_no_proxy_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    seen: list[str | None] = []

    async def second(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Cookie"))
        return web.Response(text="done")

    site.answers["/first"] = web.Response(status=303, headers={"Location": "/second", "Set-Cookie": "a=b"})
    site.answers["/second"] = second
    page: Page = await fetch(site.url("/first"), INSIDE)
    assert (page.body, seen) == (b"done", [None])
