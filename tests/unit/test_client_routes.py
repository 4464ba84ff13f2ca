"""The client has a method for every route, and sends keys where the server takes them."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator
from typing import Any

from perdure.client import Client, PerdureError, ToolCallResult
from perdure.routing import ThisProcess, all_routes
from perdure.settings import Settings
from tests.unit.fake_server import FakeServer, Request, answers

LEFT_OUT = {
    "run_command": "runs the other routes by name, for clients that do not know them",
    "preview_path": "a page for browsers; `read_file` has the content",
    "session_preview_path": "as `preview_path`",
    "upsert_agent": "`create_agent` takes an `id` and does the same",
    "openapi_document": "describes the routes",
    "docs": "a page for browsers",
    "docs_errors": "a page for browsers",
    "start_sign_in": "a page for browsers",
    "begin_sign_in": "the form of a page for browsers",
    "finish_sign_in": "a page for browsers, to which an authorization server sends them",
}
"""Routes without a method, with the reason."""

OTHERS = {
    "close", "call", "resume", "set_secrets", "submit_tool_results", "upload_file", "upload_image",
    "wait_for_run",
}  # fmt: skip
"""Public methods that are not one request, or take more than ids."""
ROUTES = all_routes(Settings(), ThisProcess())


def matching(request: Request) -> Any:
    """The route of a request: the one whose path has the fewest variables."""
    found = [
        route
        for route in ROUTES
        if route.method == request.method and fits(route.path.split("/"), request.path.split("/"))
    ]
    return min(found, key=lambda route: route.path.count("{"), default=None)


def fits(template: list[str], path: list[str]) -> bool:
    rest = template[-1] == "{path}" and len(path) >= len(template)
    return (rest or len(template) == len(path)) and all(
        name.startswith("{") or name == given for name, given in zip(template, path, strict=False)
    )


async def attempt(client: Client, name: str, given: str) -> None:
    """Call a method with each number of ids that it takes."""
    for count in range(5):
        with contextlib.suppress(TypeError, ValueError):
            await attempt_with(getattr(client, name)(*[given] * count))


async def attempt_with(made: Any) -> None:
    """Make a method's first request; the server refuses it."""
    with contextlib.suppress(PerdureError):
        await (anext(made) if isinstance(made, AsyncGenerator) else made)


def methods() -> list[str]:
    public = [name for name in dir(Client) if not name.startswith("_") and name not in OTHERS]
    return [name for name in public if inspect.isfunction(getattr(Client, name))]


async def test_every_route_has_a_method_and_every_key_a_route_that_takes_it() -> None:
    async with FakeServer(answers(418, {})) as server, Client(server.url, retries=0) as client:
        for name in methods():
            for given in ("session_1", "workspace_1"):
                await attempt(client, name, given)
        await attempt_with(client.set_secrets("session_1", {"SHOP_TOKEN": "t0k3n-value"}))
        for place in ("session_1", "workspace_1"):
            await attempt_with(client.upload_file(place, "/a", b"content"))
        await attempt_with(client.upload_image(b"content", "a.png"))
        await attempt_with(client.submit_tool_results("session_1", [ToolCallResult("call_1")]))
    sent = {matching(request).operation_id: request for request in server.requests}
    operations = {route.operation_id for route in ROUTES}
    assert LEFT_OUT.keys() <= operations
    assert operations - sent.keys() == LEFT_OUT.keys()
    takes_key = {route.operation_id for route in ROUTES if route.takes_key}
    assert {name for name, request in sent.items() if "idempotency-key" in request.headers} == (
        takes_key & sent.keys()
    )
