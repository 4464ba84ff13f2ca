"""Health, the OpenAPI document, and pages to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from perdure import __version__
from perdure.api.kernel.call import Answer, Call, Encoded, Reply
from perdure.api.kernel.route import Route, route
from perdure.api.openapi.docs_html import api_page, errors_page
from perdure.domain.errors import PerdureError
from perdure.domain.messages import JsonObject
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

    @route("GET", "/health", "system", other=(503,), public=True)
    async def health(call: Call) -> Answer[Health]:
        """Whether the server can work.

        For load balancers and the like: 200 when the server can work, 503 when it cannot.
        """
        database = "ok"
        try:
            await call.app.database.read(ping)
        except PerdureError:
            database = "unavailable"
        good = database == "ok"
        found = Health(
            "ok" if good else "degraded", __version__, database, "ok", running(), call.app.queue.depth()
        )
        return Answer(found, 200 if good else 503)

    return health


_NOTHING_FROM_ELSEWHERE = ((b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),)


def document_routes(document: Callable[[], JsonObject]) -> tuple[Route, ...]:
    """The document as JSON, and as pages that need nothing from elsewhere."""

    @route("GET", "/api-doc/openapi.json", "system", public=True)
    async def openapi_document(call: Call) -> Encoded[JsonObject]:
        """This document.

        OpenAPI 3.1, made from the table of routes that serves the requests.
        """
        return Encoded(msgspec.json.encode(document()))

    @route("GET", "/docs", "system", public=True, content="text/html")
    async def docs(call: Call) -> Reply:
        """The API, to read.

        This document as a page, without anything from elsewhere.
        """
        return _html(api_page(document()))

    @route("GET", "/docs/errors", "system", public=True, content="text/html")
    async def docs_errors(call: Call) -> Reply:
        """The error codes, to read.

        Every error code, with what to do about it.
        """
        return _html(errors_page())

    return openapi_document, docs, docs_errors


def _html(page: str) -> Reply:
    return Reply(page.encode(), content_type=b"text/html; charset=utf-8", headers=_NOTHING_FROM_ELSEWHERE)
