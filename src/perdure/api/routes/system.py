"""Health, the OpenAPI document, and pages to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from perdure import __version__
from perdure.api.kernel.http import Call, Reply, Route
from perdure.api.openapi.docs_html import api_page, errors_page
from perdure.domain.errors import PerdureError
from perdure.store.database import ping


class Health(Struct, frozen=True):
    """Whether the server can work."""

    status: Annotated[
        str, Meta(description="`ok`, or `degraded` when a part does not work.", examples=["ok"])
    ]
    version: Annotated[str, Meta(description="The server's version.", examples=["0.1.0"])]
    database: Annotated[
        str, Meta(description="`ok`, or `unavailable` when the database does not answer.", examples=["ok"])
    ]
    queue: Annotated[str, Meta(description="Always `ok`.", examples=["ok"])]
    running_sessions: Annotated[
        int, Meta(description="The number of sessions that this process is working on.", examples=[2])
    ]
    waiting_jobs: Annotated[
        int,
        Meta(description="The number of jobs that wait for this process, as far as it knows.", examples=[0]),
    ]


def health_route(running: Callable[[], int]) -> Route:
    """The health check. `running` counts the sessions that run in this process."""

    async def health(call: Call) -> Reply:
        database = "ok"
        try:
            await call.app.database.read(ping)
        except PerdureError:
            database = "unavailable"
        good = database == "ok"
        answer = Health(
            "ok" if good else "degraded", __version__, database, "ok", running(), call.app.queue.depth()
        )
        return Reply(msgspec.json.encode(answer), 200 if good else 503)

    return Route(
        "GET",
        "/health",
        "health",
        "Whether the server can work",
        "system",
        health,
        returns=Health,
        other=(503,),
        public=True,
    )


_NOTHING_FROM_ELSEWHERE = ((b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),)


def document_routes(document: Callable[[], dict[str, Any]]) -> tuple[Route, ...]:
    """The document as JSON, and as pages that need nothing from elsewhere."""

    async def openapi(call: Call) -> Reply:
        return Reply(msgspec.json.encode(document()))

    async def docs(call: Call) -> Reply:
        return _html(api_page(document()))

    async def docs_errors(call: Call) -> Reply:
        return _html(errors_page())

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
        Route(
            "GET",
            "/docs/errors",
            "docs_errors",
            "The error codes, to read",
            "system",
            docs_errors,
            public=True,
            content="text/html",
        ),
    )


def _html(page: str) -> Reply:
    return Reply(page.encode(), content_type=b"text/html; charset=utf-8", headers=_NOTHING_FROM_ELSEWHERE)
