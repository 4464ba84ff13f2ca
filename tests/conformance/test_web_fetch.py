"""Fetching pages: the result, its limits, and the allowed hosts.

Forbidden addresses are tested in tests/adversarial/.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import zlib

import pytest
from aiohttp import web

from perdure.capabilities.port import ToolContext
from perdure.domain.errors import ToolError
from perdure.domain.ids import OrgId, SessionId, ToolCallId, TurnId, WorkspaceId
from perdure.domain.network import NetworkRules, combine
from perdure.domain.redaction import Redactor
from perdure.domain.sessions import NetworkAccess
from perdure.net import web_client
from perdure.net.web_client import Page, fetch
from perdure.tools.web_fetch import WEB_FETCH_TOOL
from tests.sites import INSIDE, Names, Site


def html(body: str, **headers: str) -> web.Response:
    return web.Response(body=body.encode(), headers={"Content-Type": "text/html; charset=utf-8", **headers})


async def tool(url: str, rules: NetworkRules = INSIDE, **arguments: object) -> dict[str, object]:
    """Return the tool's result."""

    def nothing(*_: object) -> None: ...

    context = ToolContext(
        OrgId(""),
        SessionId(""),
        WorkspaceId(""),
        TurnId(""),
        ToolCallId(""),
        lambda: 0,
        nothing,
        nothing,
        Redactor({}),
        network=rules,
    )
    value: dict[str, object] = (await WEB_FETCH_TOOL.run(context, {"url": url, **arguments})).value
    return value


# --- pages
# -----------------------------------------------------------------------------------------------------------

PAGE = """<!doctype html><html><head><title>Pears</title><style>p{}</style><script>evil()</script></head>\
<body><h1>Pears &amp; co</h1>
<p>See <a href="/more">more</a>.<img src="data:image/png;base64,AAAABBBB" alt="a pear"><pre><code>x = 1
</code></pre><table><tr><th>a<th>b<tr><td>1<td>2</table></body></html>"""


async def test_a_page_becomes_markdown_with_absolute_links_and_no_scripts(site: Site) -> None:
    site.answers["/a/page"] = html(PAGE)
    answer = await tool(site.url("/a/page"))
    content = str(answer["content"])
    assert (answer["status"], answer["content_type"]) == (200, "text/html")
    assert "# Pears & co" in content
    assert f"[more]({site.url('/more')})" in content
    assert "| a | b |" in content
    assert "evil" not in content
    assert "AAAA" not in content


async def test_a_superscript_does_not_merge_with_its_number(site: Site) -> None:
    site.answers["/page"] = html("<p>some 10<sup>6</sup> bees</p>")
    assert (await tool(site.url("/page")))["content"] == "some 10^6^ bees"


async def test_a_page_comes_as_text_or_unchanged_on_request(site: Site) -> None:
    site.answers["/page"] = html(PAGE)
    text = str((await tool(site.url("/page"), format="text"))["content"])
    assert "Pears & co" in text
    assert "<" not in text
    assert (await tool(site.url("/page"), format="html"))["content"] == PAGE


async def test_json_and_http_errors_are_returned_unchanged(site: Site) -> None:
    site.answers["/data"] = web.json_response({"a": [1]}, status=404)
    answer = await tool(site.url("/data"))
    assert answer["status"] == 404
    assert json.loads(str(answer["content"])) == {"a": [1]}


@pytest.mark.parametrize("kind", ["image/png", "application/pdf", "application/octet-stream", "video/mp4"])
async def test_a_page_that_is_not_text_gets_a_clear_error(site: Site, kind: str) -> None:
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
        ("text/html", "<p>é</p>".encode()),
        ("text/html", "<p>é</p>".encode("cp1252")),
        ("text/html", "<p>é</p>".encode() + "é".encode()[:1]),
        ("text/plain; charset=punycode", "é".encode()),
        ("text/plain; charset=no-such", "é".encode()),
        ("application/xml", '<?xml version="1.0" encoding="iso-8859-15"?><a>é</a>'.encode("iso-8859-15")),
    ],
)
async def test_text_is_decoded_correctly_in_every_encoding(site: Site, kind: str, body: bytes) -> None:
    site.answers["/page"] = web.Response(body=body, headers={"Content-Type": kind})
    assert "é" in str((await tool(site.url("/page"), format="html"))["content"])


@pytest.mark.parametrize(
    ("charset", "codec", "text"),
    [
        ("gb2312", "gbk", "\u93d0\u7181"),
        ("shift_jis", "cp932", "\u2460\u9ad9"),
        ("euc-kr", "cp949", "\ubdc1"),
        ("big5", "big5hkscs", "\u5605"),
        ("iso-8859-9", "cp1254", "\u201c\u011f\u201d"),
        ("tis-620", "cp874", "\u0e01\u2026"),
        ("us-ascii", "cp1252", "\u20ac"),
    ],
)
async def test_a_declared_charset_is_read_as_its_superset(
    site: Site, charset: str, codec: str, text: str
) -> None:
    assert text.encode(codec).decode(charset, "replace") != text
    site.answers["/page"] = web.Response(
        body=text.encode(codec), headers={"Content-Type": f"text/plain; charset={charset}"}
    )
    assert (await tool(site.url("/page")))["content"] == text


async def test_very_deeply_nested_pages_are_converted_or_refused_quickly(site: Site) -> None:
    site.answers["/deep"] = html("<div>" * 100_000 + "x")
    site.answers["/tables"] = html("<table>" * 20_000 + "<a><b>" * 20_000)
    site.answers["/brackets"] = html("![" * 300_000)
    async with asyncio.timeout(20):
        for path in site.answers:
            with contextlib.suppress(ToolError):
                await tool(site.url(path))


# --- limits
# ----------------------------------------------------------------------------------------------------------


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
        body=bomb,
        headers={
            "Content-Type": "text/plain",
            "Content-Encoding": "deflate" if encoding == "raw" else encoding,
        },
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


async def test_a_gzip_of_several_members_is_read_to_its_end(site: Site) -> None:
    headers = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    packed = b"".join(gzip.compress(text.encode()) for text in ("one, ", "", "two, ", "x" * 200_000, "three"))
    site.answers["/members"] = web.Response(body=packed, headers=headers)
    site.answers["/endless"] = web.Response(
        body=gzip.compress(b"one") + gzip.compress(b"") * 50_000, headers=headers
    )
    site.answers["/padded"] = web.Response(body=gzip.compress(b"one") + b"\0" * 512, headers=headers)
    assert (await tool(site.url("/members")))["content"] == f"one, two, {'x' * 200_000}three"
    assert (await tool(site.url("/members"), max_bytes=8))["content"] == "one, two"
    for path in ("/endless", "/padded"):
        answer = await tool(site.url(path))
        assert (answer["content"], "truncated" in answer) == ("one", False)


async def test_a_compressed_page_that_ends_early_is_reported_as_truncated(site: Site) -> None:
    whole = gzip.compress(os.urandom(50_000))
    site.answers["/cut"] = web.Response(
        body=whole[:-20_000], headers={"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    )
    page = await fetch(site.url("/cut"), INSIDE)
    assert page.truncated
    assert 20_000 < len(page.body) < 40_000


async def test_a_slow_server_times_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
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


# --- the session's lists
# ---------------------------------------------------------------------------------------------


def rules_of(*layers: tuple[tuple[str, ...], tuple[str, ...]]) -> NetworkRules:
    return combine([NetworkAccess(allowed, blocked) for allowed, blocked in layers])


def test_without_lists_every_host_is_permitted() -> None:
    assert combine([None, NetworkAccess()]).permits("example.com")


def test_allow_lists_intersect_and_block_lists_add_up() -> None:
    rules = rules_of(
        (("*.example.com", "example.org"), ()),
        ((), ("bad.example.com",)),
        (("a.example.com", "bad.example.com"), ()),
    )
    assert [
        host
        for host in ("a.example.com", "b.example.com", "bad.example.com", "example.org")
        if rules.permits(host)
    ] == ["a.example.com"]


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


# --- pages that forward, and pages without text
# -----------------------------------------------------------------------------------------------------------


async def test_a_page_that_forwards_is_followed_once_to_a_permitted_address(site: Site) -> None:
    def refresh(url: str) -> web.Response:
        return html(f'<title>Moved</title><meta http-equiv="refresh" content="0; url={url}">')

    site.answers["/moved"] = refresh("/real")
    site.answers["/header"] = html("", Refresh=f"1; url={site.url('/real')}")
    site.answers["/real"] = html("<p>real</p>")
    site.answers["/twice"] = refresh("/moved")
    site.answers["/inside"] = refresh("http://169.254.169.254/latest/meta-data/")
    for path in ("/moved", "/header"):
        answer = await tool(site.url(path))
        assert (answer["content"], answer["url"]) == ("real", site.url("/real"))
        assert answer["forwarded_from"] == site.url(path)
    twice = await tool(site.url("/twice"))
    assert (twice["content"], twice["url"]) == ("", site.url("/moved"))
    assert site.url("/real") in str(twice["note"])
    inside = await tool(site.url("/inside"))
    assert "169.254.169.254 is not a public host" in str(inside["note"])


async def test_a_response_without_a_body_says_so(site: Site) -> None:
    site.answers["/empty"] = html("")
    site.answers["/none"] = web.Response(status=204)
    site.answers["/missing"] = web.Response(status=404)
    assert (await tool(site.url("/empty")))["note"] == "the response has an empty body"
    assert (await tool(site.url("/none")))["note"] == "the response has an empty body"
    assert "404 (Not Found)" in str((await tool(site.url("/missing")))["note"])


async def test_text_with_a_wrong_or_unknown_label_is_read(site: Site) -> None:
    site.answers["/label"] = web.Response(
        body="é".encode(), headers={"Content-Type": "text/plain; charset=iso-8859-1"}
    )
    site.answers["/file.md"] = web.Response(body=b"# Pears", content_type="application/octet-stream")
    assert (await tool(site.url("/label")))["content"] == "é"
    assert (await tool(site.url("/file.md")))["content"] == "# Pears"
