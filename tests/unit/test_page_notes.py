"""What `web_fetch` says about pages without readable text, and where pages forward to."""

from __future__ import annotations

import time

import pytest

from perdure.net.web_client import Page
from perdure.tools.page_notes import forwards_to, scan
from perdure.tools.web_fetch import read_html

HERE = "http://site.test/a/page"


@pytest.mark.parametrize(
    ("html", "said"),
    [
        ("<title>Shop</title><div id=root></div><script src=/app.js></script>", "a script draws the page"),
        (
            "<title>Shop</title><div id=a>Loading</div><script>x()</script><noscript>Scripts!</noscript>",
            "Without scripts the page says: Scripts!",
        ),
        ("<title>Just a moment...</title>", "checks for robots"),
        ("<title>Attention Required! | Cloudflare</title><p>Sorry, you have been blocked</p>", "robots"),
        ("<title>x</title><script>window._cf_chl_opt={}</script>", "checks for robots"),
        ("<div class=g-recaptcha></div>", "checks for robots"),
        ("<title>Members</title><form><p>Welcome</p><input type='password'></form>", "asks for a login"),
        ("<title>Sign in - Shop</title><div id=root></div><script>x</script>", "asks for a login"),
        ("<frameset><frame src=/menu><frame src='b.html'></frameset>", "http://site.test/a/b.html"),
        ("<base href=http://other.test/x/><iframe src=doc></iframe>", "http://other.test/x/doc"),
        ("<script>window.location.href = '/new'</script>", "http://site.test/new"),
        ("<script>location.replace('https:\\/\\/b.test\\/')</script>", "https://b.test/"),
        ("<body><img src=/scan.png></body>", "images only"),
        ("<html><body></body></html>", "no text"),
        ("<!-- <p>old</p> -->", "no text"),
        ("<div>" * 3000 + "deep text" + "</div>" * 3000, "nested over 400 levels"),
    ],
)
@pytest.mark.parametrize("output_format", ["markdown", "text"])
def test_a_page_without_text_says_why(html: str, said: str, output_format: str) -> None:
    page = Page(HERE, 200, "text/html", None, html.encode(), truncated=False)
    reading = read_html(page, html, output_format)
    assert said in (reading.note or ""), reading
    title = scan(html).title
    assert title in (reading.note or "")
    if "deep" in html:
        assert reading.content == "deep text"


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503, 599])
def test_an_error_without_a_page_is_told_by_its_status(status: int) -> None:
    page = Page(HERE, status, "text/html", None, b"<html></html>", truncated=False)
    assert str(status) in (read_html(page, "<html></html>", "markdown").note or "")


@pytest.mark.parametrize(
    "html",
    [
        "<h1>Pears</h1>" + "<p>They are sweet, and grow on trees in gardens.</p>" * 3,
        "<title>Pears</title><p>" + "They are sweet. " * 9 + "<script>count()</script>",
        "<p>" + "A captcha is a picture. " * 9,
        "<title>Log in to the news</title>" + "<p>An article about forms of login.</p>" * 5,
    ],
)
def test_a_page_with_text_gets_no_note(html: str) -> None:
    page = Page(HERE, 200, "text/html", None, html.encode(), truncated=False)
    reading = read_html(page, html, "markdown")
    assert reading.note is None
    assert len(reading.content) > 80


@pytest.mark.parametrize(
    ("html", "target"),
    [
        ('<meta http-equiv="refresh" content="0; url=/real">', "http://site.test/real"),
        ("<META CONTENT='0;URL=real' HTTP-EQUIV=Refresh>", "http://site.test/a/real"),
        ("<meta http-equiv=refresh content=\"5;url='//b.test/x?a=1&amp;b=2#c'\">", "http://b.test/x?a=1&b=2"),
        ('<meta http-equiv="refresh" content="0;https://b.test/">', "https://b.test/"),
        ('<meta http-equiv="refresh" content="0.5, url = /real" />', "http://site.test/real"),
        ('<noscript><meta http-equiv="refresh" content="0;url=/plain"></noscript>', "http://site.test/plain"),
        ('<base href="/b/"><meta http-equiv="refresh" content="0;url=c">', "http://site.test/b/c"),
        ('<meta http-equiv="refresh" content="300; url=/later">', None),
        ('<meta http-equiv="refresh" content="5">', None),
        ('<meta http-equiv="refresh" content="0; url=/a/page">', None),
        ('<meta http-equiv="refresh" content="0; url=javascript:x()">', None),
        ('<meta http-equiv="refresh" content="0; url=http://[">', None),
        ('<!-- <meta http-equiv="refresh" content="0; url=/old"> -->', None),
        ('<script>"<meta http-equiv=refresh content=0;url=/x>"</script>', None),
        ('<meta name="refresh" content="0; url=/x">', None),
    ],
)
def test_a_page_names_where_it_forwards_to(html: str, target: str | None) -> None:
    assert forwards_to(scan(html), "", HERE) == target


@pytest.mark.parametrize(
    "piece",
    ["<", "<a", "<a ", "<div>", "<!--", "<script>", "<noscript>", "<!", "<meta content=", "&", '<a x="',
     "<meta http-equiv=refresh content=0;", "</", "<title>", " ", "location=", "<input ", "<p/"],
)  # fmt: skip
def test_a_page_of_any_shape_is_scanned_in_linear_time(piece: str) -> None:
    html = (piece * (1_000_000 // len(piece)))[:1_000_000]
    began = time.process_time()
    scanned = scan(html)
    forwards_to(scanned, "", HERE)
    page = Page(HERE, 200, "text/html", None, b"", truncated=False)
    read_html(page, html[:1000], "html")
    assert time.process_time() - began < 5
