"""HTTP requests of tools: what they send, and which answers and addresses they refuse."""

from __future__ import annotations

import asyncio
import gzip
import re
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from perdure.domain.errors import ToolError
from perdure.domain.http_answers import HttpAnswer
from perdure.domain.network import NetworkRules
from perdure.net.tool_http import OwnRequest, send
from perdure.net.web_client import is_same_origin
from tests.sites import INSIDE, PUBLIC, Names, Site, serving

KEY = "effect-1"


async def ask(
    site: Site, path: str, method: str = "GET", rules: NetworkRules = INSIDE, **options: Any
) -> HttpAnswer:
    limits = {"timeout": options.pop("timeout", 5.0), "max_bytes": options.pop("max_bytes", 1_000)}
    url = path if "://" in path else site.url(path)
    given = [options.get(name) for name in ("params", "headers", "json", "content")]
    request = OwnRequest.of(method, url, *given)
    if request.may_change:
        request = request.with_default("Idempotency-Key", KEY)
    return await send(request, rules, **limits)


async def _echo(request: web.Request) -> web.Response:
    names = ("Idempotency-Key", "Content-Type", "Authorization")
    heard = {name.lower(): request.headers[name] for name in names if name in request.headers}
    return web.json_response(
        {"method": request.method, "query": dict(request.query), "text": await request.text(), **heard}
    )


@pytest.mark.parametrize(
    ("method", "options", "heard"),
    [
        ("get", {"params": {"q": "a b"}}, {"method": "GET", "query": {"q": "a b"}}),
        (
            "POST",
            {"json": {"a": 1}},
            {"text": '{"a":1}', "content-type": "application/json", "idempotency-key": KEY},
        ),
        ("PUT", {"content": "ä", "headers": {"content-type": "text/plain"}}, {"text": "ä"}),
        ("DELETE", {"headers": {"idempotency-key": "mine"}}, {"idempotency-key": "mine"}),
        (
            "POST",
            {"content": b"raw", "headers": {"Authorization": "Bearer x"}},
            {"authorization": "Bearer x"},
        ),
    ],
)
async def test_a_request_arrives_as_it_was_made(
    site: Site, method: str, options: dict[str, Any], heard: dict[str, Any]
) -> None:
    site.answers["/echo"] = _echo
    answer = (await ask(site, "/echo", method, **options)).raise_for_status().json()
    assert heard.items() <= answer.items()
    assert ("idempotency-key" in answer) == (method != "get")


async def test_what_cannot_be_asked_or_read_is_an_error_for_the_model(site: Site) -> None:
    end = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await end.wait()
        return web.Response()

    bomb = gzip.compress(b"x" * 1_000_000)
    site.answers |= {
        "/hang": hang,
        "/bomb": web.Response(body=bomb, headers={"Content-Encoding": "gzip"}),
        "/text": web.Response(text="no JSON"),
        "/bad": web.Response(text="wrong order", status=422),
        "/loop": web.Response(status=302, headers={"Location": "/loop"}),
    }
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("/hang", {"timeout": 0.05}, "did not answer within 0.05 seconds"),
        ("http://127.0.0.1:1025/", {"method": "POST"}, "127.0.0.1:1025/ cannot be reached: "),
        ("/bomb", {}, "answered with more than 1000 bytes"),
        ("/loop", {}, "redirects more than 5 times"),
        ("/x", {"method": "BREW"}, "unknown HTTP method 'BREW'"),
        ("/x", {"json": 1, "content": "2"}, "either `json` or `content`"),
        ("/x", {"headers": {"A": "b\r\nc: d"}}, "is not valid"),
        ("file:///etc/passwd", {}, "only http and https"),
        ("http://127.0.0.1:1/", {}, "port 1 is not allowed"),
        ("/text", {"rules": PUBLIC}, "127.0.0.1 is not a public host"),
        ("http://169.254.169.254/", {}, "169.254.169.254 is not a public host"),
        (
            "/text",
            {"rules": NetworkRules(allowed=(("example.com",),), private=True)},
            "is not one of the hosts",
        ),
    ]
    for path, options, words in cases:
        with pytest.raises(ToolError, match=re.escape(words)):
            await ask(site, path, **options)
    end.set()
    with pytest.raises(ToolError, match="did not answer with JSON"):
        (await ask(site, "/text")).json()
    with pytest.raises(ToolError, match="answered with status 422: wrong order"):
        (await ask(site, "/bad")).raise_for_status()


OWN = ("Authorization", "Cookie", "Idempotency-Key", "X-Api-Key", "Content-Type")


async def _sent(request: web.Request) -> web.Response:
    """What arrived: the method, the tool's own headers, and the body."""
    heard = [name for name in OWN if name in request.headers]
    return web.json_response([heard, await request.text()], headers={"X-Method": request.method})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_takes_what_the_tool_wrote_to_no_other_origin(status: int, site: Site) -> None:
    async with serving() as other:
        other.answers |= {
            "/sent": _sent,
            "/back": web.Response(status=307, headers={"Location": site.url("/sent")}),
        }
        site.answers["/sent"] = _sent
        places = {
            "host": site.url("/sent", host="localhost"),
            "port": other.url("/sent"),
            "back": other.url("/back"),
            "network": f"//localhost:{site.port}/sent",
            "path": "sent",
            "same": site.url("/sent"),
        }
        for name, location in places.items():
            site.answers[f"/{name}"] = web.Response(status=status, headers={"Location": location})
        for name in places:
            headers = dict.fromkeys(OWN, "text/plain")
            answer = await ask(site, f"/{name}", headers=headers, content="body")
            kept = [list(OWN), "body"] if status != 303 else [list(OWN[:-1]), ""]
            assert answer.json() == (kept if name in ("path", "same") else [[], ""]), name
            assert answer.headers["x-method"] == "GET"
            assert (await ask(site, f"/{name}", "HEAD", headers=headers)).headers["x-method"] == "HEAD"
        asked = len(other.asked)
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            for name in places:
                answer = await ask(site, f"/{name}", method, headers=headers, content="body")
                assert (answer.status, len(other.asked)) == (status, asked), "the tool decides"


def test_an_origin_is_a_scheme_a_host_and_a_port() -> None:
    one = URL("https://example.com/a")
    for other, same in (
        ("https://example.com:443/b?c", True),
        ("https://EXAMPLE.com/", True),
        ("http://example.com/a", False),
        ("http://example.com:443/a", False),
        ("https://example.com:8443/a", False),
        ("https://www.example.com/a", False),
        ("https://example.com./a", False),
    ):
        assert is_same_origin(one, URL(other)) is same, other


async def test_a_redirect_leads_nowhere_that_a_tool_may_not_reach(site: Site) -> None:
    for location in ("http://169.254.169.254/", "file:///etc/passwd", "http://a:b@localhost/", "http://[/"):
        site.answers["/away"] = web.Response(status=302, headers={"Location": location})
        with pytest.raises(ToolError):
            await ask(site, "/away")
    assert set(site.asked) == {"/away"}


async def test_a_name_that_leads_inside_is_refused(site: Site) -> None:
    names = Names(inside_example=["127.0.0.1"])
    request = OwnRequest.of("GET", site.url("/", host="inside.example"), None, None, None, None)
    with pytest.raises(ToolError, match="is not a public host"):
        await send(request, PUBLIC, timeout=5, max_bytes=10, resolver=names)
    assert site.asked == []
