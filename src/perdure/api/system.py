"""Health, the OpenAPI document and a readable page of it."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from perdure import __version__
from perdure.api.http import Call, Reply, Route
from perdure.domain.errors import PerdureError
from perdure.store.database import Tx


class Health(Struct, frozen=True):
    """Whether the server can work."""

    status: str
    version: str
    database: str
    queue: str
    running_sessions: int
    waiting_jobs: int


def health_route(running: Callable[[], int]) -> Route:
    """The health check. `running` counts the sessions that run in this process."""

    async def health(call: Call) -> Reply:
        database = "ok"
        try:
            await call.app.database.read(_ping)
        except PerdureError:
            database = "unavailable"
        good = database == "ok"
        answer = Health("ok" if good else "degraded", __version__, database, "ok", running(), call.app.queue.depth())
        return Reply(msgspec.json.encode(answer), 200 if good else 503)

    return Route("GET", "/health", "health", "Whether the server can work", "system", health, returns=Health, public=True)


async def _ping(tx: Tx) -> None:
    await tx.one("SELECT 1")


def document_routes(document: Callable[[], dict[str, Any]]) -> tuple[Route, ...]:
    """The document as JSON, and as a page that needs nothing from elsewhere."""

    async def openapi(call: Call) -> Reply:
        return Reply(msgspec.json.encode(document()))

    async def docs(call: Call) -> Reply:
        return Reply(_page(document()).encode(), content_type=b"text/html; charset=utf-8")

    return (
        Route(
            "GET",
            "/api-doc/openapi.json",
            "openapi_document",
            "This document",
            "system",
            openapi,
            returns=dict[str, Any],
            public=True,
        ),
        Route("GET", "/docs", "docs", "The API, to read", "system", docs, public=True, content="text/html"),
    )


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
    "code,pre{font:14px/1.5 ui-monospace,monospace}pre{background:#f4f4f4;padding:.8rem;overflow:auto;border-radius:6px}"
    "summary{cursor:pointer;padding:.3rem 0}b{display:inline-block;min-width:4.5rem}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#242424}}"
)


def _page(document: dict[str, Any]) -> str:
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Perdure API</title><style>{_STYLE}</style>",
        f"<h1>Perdure API {html.escape(document['info']['version'])}</h1>",
        '<p>The whole document: <a href="/api-doc/openapi.json">openapi.json</a></p>',
    ]
    tags: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tags.setdefault(operation["tags"][0], []).append(_operation(path, method, operation))
    for tag, operations in tags.items():
        parts.append(f"<h2>{html.escape(tag)}</h2>{''.join(operations)}")
    return "".join(parts) + "</html>"


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    lines = [
        f"<details><summary><b>{method.upper()}</b> <code>{html.escape(path)}</code> {html.escape(operation['summary'])}</summary>"
    ]
    if "description" in operation:
        lines.append(f"<p>{html.escape(operation['description'])}</p>")
    for parameter in operation.get("parameters", []):
        kind = html.escape(msgspec.json.encode(parameter["schema"]).decode())
        lines.append(f"<div><code>{parameter['name']}</code> ({parameter['in']}) <code>{kind}</code></div>")
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if "example" in content:
        example = msgspec.json.format(msgspec.json.encode(content["example"]), indent=2).decode()
        lines.append(f"<pre>{html.escape(example)}</pre>")
    return "".join(lines) + "</details>"
