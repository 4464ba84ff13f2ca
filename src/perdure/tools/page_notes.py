"""What a page without readable text is: why nothing came of it, and where it leads.

Every scan takes time linear in the page's length and does not recurse: the page is foreign input.
"""

from __future__ import annotations

import re
from http import HTTPStatus

from msgspec import Struct
from yarl import URL

from perdure.domain.words import Words

MAX_DEPTH = 400
"""Nesting levels of elements that a conversion follows; real pages have a few dozen."""

FORWARD_WITHIN = 10.0
"""Seconds of delay up to which a page that forwards is not meant to be read."""

THIN = 600
"""Characters of content below which a page may be a wall in front of what was asked for."""

BARE = 80
"""Characters of content that a page's frame alone has, such as `Loading...` or a menu button."""

EMPTY = "the response has an empty body"

_SHOWN = 300
_TAG = re.compile(r"<(/?)([a-z][a-z0-9:-]{0,40})(?![^\s/>])([^<>]*)>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""([a-z-]{1,20})\s{0,9}=\s{0,9}("[^"]*"|'[^']*'|[^\s"'>]+)""", re.IGNORECASE)
_DECLARATION = re.compile(r"<[!?][^<>]*>")
_SPACE = re.compile(r"[ \t\r\f\v]+")
_RAW = ("script", "style", "template", "svg", "title", "noscript")
"""Elements whose content is not part of the text."""

_UNNESTED = frozenset(
    {
        "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source",
        "track", "wbr", "p", "li", "dt", "dd", "tr", "td", "th", "tbody", "thead", "tfoot", "option",
        "optgroup", "colgroup", "html", "head", "body",
    }
)  # fmt: skip
"""Elements that never nest: empty ones, and those that the next one closes."""

_INLINE = frozenset(
    {
        "a", "abbr", "b", "big", "cite", "code", "em", "font", "i", "kbd", "mark", "q", "s", "small", "span",
        "strong", "sub", "sup", "tt", "u", "var",
    }
)  # fmt: skip
_CHALLENGE_TITLES = Words(
    r"just a moment|attention required|access denied|access to this page|are you (a )?(human|robot)"
    r"|(not a|you'?re a|robot) robot|robot check|verify(ing)? (that )?you|human verification|captcha"
    r"|pardon our interruption|one moment|checking your browser|security check|bot (verification|detection)"
    r"|ddos|please wait|request (blocked|rejected)|unusual traffic|you have been blocked|validating",
    re.IGNORECASE,
)
_CHALLENGE_MARKS = (
    "_cf_chl", "cf-challenge", "challenge-platform", "cf-turnstile", "g-recaptcha", "recaptcha/api.js",
    "h-captcha", "hcaptcha.com", "px-captcha", "captcha-delivery", "datadome", "_incapsula_resource",
    "awswafcookie", "awswaf", "ddos-guard", "sucuri_cloudproxy", "_abck", "akam/", "friendlycaptcha",
    "captcha",
)  # fmt: skip
_LOGIN_TITLES = Words(
    r"\b(log|sign)[ -]?(in|on)\b|\blogin\b|anmelden|connexion|iniciar sesi|authenticat|single sign",
    re.IGNORECASE,
)
_LOGIN_FIELD = Words(r"""<input\b[^<>]{0,500}?type\s{0,9}=\s{0,9}["']?password""", re.IGNORECASE)
_SCRIPT_MOVE = Words(
    r"""\blocation(?:\.href)?\s{0,9}(?:=|\.(?:replace|assign)\()\s{0,9}["']([^"'\s]{1,2000})["']"""
)
_REFRESH = Words(r"\s*(\d{0,9})(?:\.[\d.]*)?\s*[;,\s]?\s*(?:url\s*=\s*)?(.*)", re.IGNORECASE | re.DOTALL)


class Scanned(Struct, frozen=True):
    """A page as a scan sees it.

    Attributes:
        text: all text outside scripts, styles and the like, without marks.
        noscript: the text for browsers without scripts.
        refresh: the content of its `meta refresh`, if it has one.
        base: the address that it declares for its links, or an empty string.
        depth: levels of nested elements.
    """

    title: str
    text: str
    noscript: str
    scripts: str
    refresh: str
    base: str
    frames: tuple[str, ...]
    images: int
    depth: int


class _Scan:
    """The state of a scan. Elements in `_RAW` are skipped to their end tags, without looking inside."""

    def __init__(self, html: str) -> None:
        self._html, self._lower = html, html.lower()
        self._ended: dict[str, bool] = {}
        self._pieces: list[str] = []
        self._raw: dict[str, list[str]] = {name: [] for name in _RAW}
        self._refresh = self._base = ""
        self._frames: list[str] = []
        self._images = self._depth = self._deepest = 0

    def run(self) -> Scanned:
        at = 0
        while (tag := _TAG.search(self._html, at)) is not None:
            self._pieces.append(self._html[at : tag.start()])
            at = tag.end()
            name, closing = tag[2].lower(), bool(tag[1])
            if name in _RAW and not closing:
                at = self._skip(name, tag)
            else:
                self._enter(name, tag[3], closing=closing)
        self._pieces.append(self._html[at:])
        noscript = "\n".join(self._raw["noscript"])
        return Scanned(
            title=_plain("".join(self._raw["title"][:1]))[:_SHOWN],
            text=_plain("".join(self._pieces)),
            noscript=_plain(_TAG.sub(" ", noscript)),
            scripts="\n".join(self._raw["script"]),
            refresh=self._refresh or _refresh_in(noscript),
            base=self._base,
            frames=tuple(self._frames[:5]),
            images=self._images,
            depth=self._deepest,
        )

    def _skip(self, name: str, tag: re.Match[str]) -> int:
        """Return the end of an element whose content is raw; without an end tag it has no content."""
        end = -1 if self._ended.get(name) else self._lower.find(f"</{name}", tag.end())
        if end < 0:
            self._ended[name] = True  # otherwise each of many would search to the page's end
            return tag.end()
        content = self._html[tag.end() : end]
        # A script's address tells as much as its text.
        self._raw[name].append(f"{tag[3]} {content}" if name == "script" else content)
        return end

    def _enter(self, name: str, attributes: str, *, closing: bool) -> None:
        self._pieces.append("" if name in _INLINE else "\n")
        if name not in _UNNESTED:
            self._depth = max(0, self._depth + (-1 if closing else 1 - attributes.endswith("/")))
            self._deepest = max(self._deepest, self._depth)
        if closing:
            return
        if name == "meta":
            self._refresh = self._refresh or _refresh_of(attributes)
        elif name == "base":
            self._base = self._base or _attributes(attributes).get("href", "")
        elif name in ("frame", "iframe", "object", "embed"):
            given = _attributes(attributes)
            source = given.get("src") or given.get("data", "")
            if source and not source.startswith(("about:", "data:", "javascript:")):
                self._frames.append(source)
        elif name in ("img", "canvas", "video"):
            self._images += 1


def scan(html: str) -> Scanned:
    """Scan a page."""
    return _Scan(_without_comments(html)).run()


def forwards_to(scanned: Scanned, header: str, url: str) -> str | None:
    """The absolute address that a page forwards to within FORWARD_WITHIN seconds, or None.

    Args:
        header: the response's `Refresh` header.
        url: the page's own address.
    """
    match = _REFRESH.match((header or scanned.refresh)[:4096])
    target = "" if match is None else match[2].strip()
    if match is None or not target or float(match[1] or 0) > FORWARD_WITHIN:
        return None
    quote = target[0] if target[0] in "\"'" else ""
    joined = _joined(scanned, url, target[1:].partition(quote)[0] if quote else target)
    return None if joined in (None, str(URL(url).with_fragment(None))) else joined


def why_empty(scanned: Scanned, html: str, content: str, url: str, status: int) -> str | None:
    """Explain why an HTML page has little or nothing to read; None for a page with content."""
    if len(content) >= THIN:
        return None
    lower, bare = html.lower(), len(content) < BARE
    if _CHALLENGE_TITLES.search(scanned.title) or (bare and any(mark in lower for mark in _CHALLENGE_MARKS)):
        return (
            "the site checks for robots: this is its challenge or refusal, not the page. Look for the same "
            "information elsewhere"
        )
    if _LOGIN_FIELD.search(html) or (bare and _LOGIN_TITLES.search(scanned.title)):
        return "the page asks for a login, and what was asked for is behind it"
    if not bare:
        return None
    if status >= HTTPStatus.BAD_REQUEST:
        return refusal(status)
    said = _shown(scanned.noscript)
    return _moved(scanned, url) or (
        "a script draws the page, and scripts are not run. Look for an API, a feed or another page"
        + (f". Without scripts the page says: {said}" if said else "")
        if scanned.scripts or said
        else _without_words(scanned, content)
    )


def refusal(status: int) -> str:
    """What an error status of a response without content means."""
    phrase = HTTPStatus(status).phrase if status in list(HTTPStatus) else "an error"
    advice = {
        401: ": the page asks for a login",
        403: ": it may refuse programs, or ask for a login",
        429: ": it was asked too often. Try again later",
        503: ": it is overloaded, or refuses programs. Try again later",
    }
    return f"the server answered {status} ({phrase}) without a readable page{advice.get(status, '')}"


def _moved(scanned: Scanned, url: str) -> str | None:
    """Where the content is instead: in frames, or at the address that a script goes to."""
    frames = [each for each in (_joined(scanned, url, frame) for frame in scanned.frames) if each]
    if frames:
        return f"the page only shows other pages in frames. Fetch them instead: {', '.join(frames)}"
    move = _SCRIPT_MOVE.search(scanned.scripts)
    target = None if move is None else _joined(scanned, url, move[1].replace("\\/", "/"))
    return None if target is None else f"a script forwards the page. Fetch its target instead: {target}"


def _without_words(scanned: Scanned, content: str) -> str | None:
    if scanned.images and not scanned.text.strip():
        return "the page consists of images only"
    return None if content else "the page has no text"


def _joined(scanned: Scanned, url: str, target: str) -> str | None:
    try:
        base = URL(url).join(URL(_unescaped(scanned.base).strip())) if scanned.base else URL(url)
        joined = base.join(URL(_unescaped(target).strip())).with_fragment(None)
    except ValueError:
        return None
    return str(joined) if joined.scheme in ("http", "https") and len(str(joined)) <= 2048 else None


def _refresh_in(html: str) -> str:
    found = (_refresh_of(tag[3]) for tag in _TAG.finditer(html) if tag[2].lower() == "meta")
    return next((content for content in found if content), "")


def _refresh_of(attributes: str) -> str:
    given = _attributes(attributes)
    return given.get("content", "") if given.get("http-equiv", "").strip().lower() == "refresh" else ""


def _attributes(text: str) -> dict[str, str]:
    return {
        each[1].lower(): _unescaped(each[2][1:-1] if each[2][0] in "\"'" else each[2])
        for each in _ATTRIBUTE.finditer(text[:4096])
    }


def _unescaped(text: str) -> str:
    from html import unescape  # on the first page: its table of names takes half a megabyte

    return unescape(text)


def _without_comments(html: str) -> str:
    pieces, at = [], 0
    while (start := html.find("<!--", at)) >= 0:
        pieces.append(html[at:start])
        end = html.find("-->", start + 2)
        if end < 0:
            return _DECLARATION.sub("", "".join(pieces))
        at = end + 3
    return _DECLARATION.sub("", "".join([*pieces, html[at:]]))


def _plain(text: str) -> str:
    lines = (_SPACE.sub(" ", line).strip() for line in _unescaped(text).split("\n"))
    return "\n".join(line for line in lines if line)


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
