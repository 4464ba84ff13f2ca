"""Routes of the server itself: health, the OpenAPI document, and its HTML pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from perdure import __version__
from perdure.api.kernel.call import Answer, Call, Encoded, Reply
from perdure.api.kernel.route import Route, route
from perdure.app.health import DatabaseHealth
from perdure.domain.messages import JsonObject
from perdure.store.faults import CAUSES


class CircuitBreakers(Struct, frozen=True):
    """How many models have a circuit breaker that is not closed, over all organizations."""

    open: Annotated[int, Meta(description="Models whose calls have failed just now.", examples=[1])]
    half_open: Annotated[int, Meta(description="Models that the next call tries again.", examples=[0])]


class Health(Struct, frozen=True, omit_defaults=True):
    """The server's health."""

    status: Annotated[
        str, Meta(description="`ok`, or `degraded` if the database cannot be written.", examples=["ok"])
    ]
    version: Annotated[str, Meta(description="The server's version.", examples=["0.2.0"])]
    database: Annotated[
        str, Meta(description="`ok`, or `unavailable` if the database cannot be written.", examples=["ok"])
    ]
    queue: Annotated[str, Meta(description="Always `ok`.", examples=["ok"])]
    running_sessions: Annotated[
        int, Meta(description="The number of sessions that this process is working on.", examples=[2])
    ]
    waiting_jobs: Annotated[
        int,
        Meta(description="The number of jobs that wait for this process, as far as it knows.", examples=[0]),
    ]
    cause: Annotated[
        str | None,
        Meta(
            description=(
                "Why the database cannot be written, as a stable word: `disk_full`, `disk_error`, "
                "`read_only`, `corrupt`, `no_connection`, `not_responding`, `busy`, `locked` ...; otherwise "
                "absent."
            )
        ),
    ] = None
    detail: Annotated[
        str | None, Meta(description="The cause for people, with what to do; absent if there is none.")
    ] = None
    circuit_breakers: Annotated[
        CircuitBreakers | None,
        Meta(
            description=(
                "The models whose calls fail, in this process; absent if there are none. They leave the "
                "server's status as it is. `GET /v1/providers` names them."
            )
        ),
    ] = None


class Liveness(Struct, frozen=True):
    """That a process answers."""

    status: Annotated[str, Meta(description="Always `ok`.", examples=["ok"])] = "ok"


class Readiness(Struct, frozen=True, omit_defaults=True):
    """Whether a process should be sent requests."""

    status: Annotated[
        str,
        Meta(
            description=(
                "`ready`, `draining` after a request to stop, or `degraded` if nothing can be written."
            ),
            examples=["ready"],
        ),
    ]
    cause: Annotated[
        str | None,
        Meta(description="Why the database cannot be written, as in `GET /health`; otherwise absent."),
    ] = None


@route("GET", "/health/live", "system", public=True)
async def health_live(call: Call) -> Liveness:
    """Check whether the process answers.

    Nothing else is checked. For a supervisor that restarts a process that hangs: a database that is away
    must not restart it.
    """
    return Liveness()


def system_routes(
    running: Callable[[], int], draining: Callable[[], bool], folder: Path | None
) -> tuple[Route, ...]:
    """Build the routes of the health checks.

    Args:
        running: returns the number of sessions that this process is working on.
        draining: returns whether the process was asked to stop.
        folder: the folder of the embedded database; None for PostgreSQL.
    """
    database = DatabaseHealth(folder)

    @route("GET", "/health/ready", "system", other=(503,), public=True)
    async def health_ready(call: Call) -> Answer[Readiness]:
        """Check whether the process should be sent requests.

        503 if it was asked to stop, or if the database cannot be written. For load balancers: until the
        process has stopped, requests that still come are served.
        """
        fault = await database.fault(call.app.database, call.app.now())
        if draining():
            return Answer(Readiness("draining"), 503)
        if fault is not None:
            return Answer(Readiness("degraded", fault.cause), 503)
        return Answer(Readiness("ready"))

    @route("GET", "/health", "system", other=(503,), public=True)
    async def health(call: Call) -> Answer[Health]:
        """Check whether the server is healthy.

        200 if it is, 503 if the database cannot be written: it is not responding, full, read-only or damaged.
        The check writes to the database, at most once a second. For load balancers and monitoring.
        """
        now = call.app.now()
        fault = await database.fault(call.app.database, now)
        failing = CircuitBreakers(
            call.app.breakers.count("open", now), call.app.breakers.count("half_open", now)
        )
        result = Health(
            "ok" if fault is None else "degraded",
            __version__,
            "ok" if fault is None else "unavailable",
            "ok",
            running(),
            call.app.queue.depth(),
            None if fault is None else fault.cause,
            None if fault is None else CAUSES.get(fault.cause, "the server's log has the details"),
            failing if failing.open or failing.half_open else None,
        )
        return Answer(result, 200 if fault is None else 503)

    return health, health_live, health_ready


STRICT_CSP = ((b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),)


def document_routes(document: Callable[[], JsonObject]) -> tuple[Route, ...]:
    """Build the routes of the OpenAPI document, as JSON and as HTML pages.

    Args:
        document: returns the document.
    """

    @route("GET", "/api-doc/openapi.json", "system", public=True)
    async def openapi_document(call: Call) -> Encoded[JsonObject]:
        """Get the OpenAPI document.

        OpenAPI 3.1, generated from the routes and types of this server.
        """
        return Encoded(msgspec.json.encode(document()))

    @route("GET", "/docs", "system", public=True, content="text/html")
    async def docs(call: Call) -> Reply:
        """Show the API documentation.

        The OpenAPI document as an HTML page, without scripts or files from other hosts.
        """
        from perdure.api.openapi.docs_html import api_page  # on the first use

        return _html(api_page(document()))

    @route("GET", "/docs/errors", "system", public=True, content="text/html")
    async def docs_errors(call: Call) -> Reply:
        """Show the error codes.

        An HTML page of all error codes: what each one means and what to do.
        """
        from perdure.api.openapi.docs_html import errors_page  # on the first use

        return _html(errors_page())

    return openapi_document, docs, docs_errors


def _html(page: str) -> Reply:
    return Reply(page.encode(), content_type=b"text/html; charset=utf-8", headers=STRICT_CSP)
