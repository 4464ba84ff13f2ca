"""HTML pages for people without a login: no scripts, nothing from elsewhere, not in frames."""

from __future__ import annotations

from perdure.api.kernel.asgi import Header
from perdure.api.kernel.call import Reply

_STRICT = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
)
SENDS_NO_REFERRER = (*_STRICT, (b"referrer-policy", b"no-referrer"))
"""Headers of a page whose address is secret."""
SENDS_OWN_ORIGIN = (*_STRICT, (b"referrer-policy", b"same-origin"))
"""Headers of a page whose form's origin is checked: browsers hide it under `no-referrer`."""

_STYLE = "body{font:16px/1.5 sans-serif;max-width:36em;margin:4em auto;padding:0 1em}"


def page(body: str, status: int, headers: tuple[Header, ...], style: str = "") -> Reply:
    """Build a page. `body` is HTML, in which every text of others is escaped already."""
    html = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<meta name=robots content=noindex><title>Perdure</title><style>{_STYLE}{style}</style>"
        f"<body>{body}</body></html>"
    )
    return Reply(html.encode(), status, b"text/html; charset=utf-8", headers)


def wants_page(accept: str | None) -> bool:
    """Whether a request comes from a browser, which asks for HTML; programs get JSON."""
    kinds = (each.partition(";")[0].strip().lower() for each in (accept or "").split(","))
    return "text/html" in kinds
