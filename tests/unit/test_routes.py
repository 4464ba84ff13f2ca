"""Routes are built from their handlers: path variables, query, body and response."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from msgspec import Struct

from perdure.api.kernel.access import Access
from perdure.api.kernel.call import Answer, Call, Encoded, Reply
from perdure.api.kernel.http import Api
from perdure.api.kernel.route import Route, route
from perdure.api.kernel.variables import RestOfPath, Variable
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidId, InvalidInput
from perdure.domain.ids import AgentRef, OrgId, SessionId, UserId, WorkspaceId, new_id
from perdure.domain.metrics import Metrics
from perdure.domain.paging import Listing
from perdure.domain.working_for import working_for


class Query(Struct):
    """A query."""

    deep: bool = False


class Body(Struct):
    """A body."""

    title: str


class Thing(Struct):
    """A response."""

    title: str


@route("POST", "/things/{session_id}/{name}", "things", errors=(404,))
async def make_thing(call: Call, session_id: SessionId, name: str, query: Query, body: Body) -> Thing:
    """Make a thing.

    With a title,
    of course.
    """
    return Thing(f"{name} {body.title} {query.deep}")


def test_a_route_is_built_from_its_handler() -> None:
    assert (make_thing.method, make_thing.path, make_thing.tag) == (
        "POST",
        "/things/{session_id}/{name}",
        "things",
    )
    assert (make_thing.operation_id, make_thing.summary) == ("make_thing", "Make a thing")
    assert make_thing.description == "With a title, of course."
    assert make_thing.variables == (Variable("session_id", ("session",)), Variable("name"))
    assert (make_thing.query, make_thing.body, make_thing.returns) == (Query, Body, Thing)
    assert (make_thing.also, make_thing.status, make_thing.ids) == (None, 200, {"session_id": "session"})


def response_of(handler: Any) -> tuple[Any, Any, int]:
    """The types of a handler's response, and its status."""
    built = route("GET", "/", "things")(handler)
    return built.returns, built.also, built.status


def test_the_response_types_come_from_the_return_annotation() -> None:
    async def nothing(call: Call) -> None: ...
    async def plain(call: Call) -> Listing[Thing]: ...  # type: ignore[empty-body]
    async def text(call: Call) -> Reply: ...  # type: ignore[empty-body]
    async def encoded(call: Call) -> Encoded[Thing]: ...  # type: ignore[empty-body]
    async def either(call: Call) -> Answer[Thing] | Listing[Thing]: ...  # type: ignore[empty-body]
    async def maybe(call: Call) -> Thing | Reply: ...  # type: ignore[empty-body]

    assert response_of(nothing) == (None, None, 204)
    assert response_of(plain) == (Listing[Thing], None, 200)
    assert response_of(text) == (None, None, 200)
    assert response_of(encoded) == (Thing, None, 200)
    assert response_of(either) == (Thing, Listing[Thing], 200)
    assert response_of(maybe) == (Thing, None, 200)


def test_a_body_annotated_as_str_is_text() -> None:
    async def take(call: Call, body: str) -> None: ...

    built = route("POST", "/", "things", body_limit=7)(take)
    assert (built.body, built.text_limit, built.body_limit) == (None, 7, 0)


def test_a_trailing_underscore_in_a_parameters_name_is_ignored() -> None:
    async def take(call: Call, id_: SessionId) -> None: ...

    assert route("GET", "/{id}", "things")(take).ids == {"id": "session"}


def test_a_handler_that_does_not_fit_its_path_is_a_type_error() -> None:
    async def missing(call: Call) -> None: ...
    async def swapped(call: Call, name: str, session_id: SessionId) -> None: ...
    async def more(call: Call, session_id: SessionId, name: str, extra: int) -> None: ...
    async def bare(call: Call, session_id: SessionId, name) -> None: ...  # type: ignore[no-untyped-def]
    async def odd(call: Call, session_id: SessionId, name: int) -> None: ...
    async def other(call: str, session_id: SessionId, name: str) -> None: ...

    for handler in (missing, swapped, more, bare, odd, other):
        with pytest.raises(TypeError):
            route("GET", "/{session_id}/{name}", "things")(handler)


def test_a_response_of_more_than_two_types_is_a_type_error() -> None:
    async def three(call: Call) -> Answer[Thing] | Answer[Body] | Query: ...  # type: ignore[empty-body]

    with pytest.raises(TypeError, match="too many"):
        route("GET", "/", "things")(three)


def variable(kind: object) -> Variable:
    async def take(call: Call, it: Any) -> None: ...

    take.__annotations__["it"] = kind
    return route("GET", "/{it}", "things")(take).variables[0]


SESSION, WORKSPACE, AGENT = new_id("session"), new_id("workspace"), new_id("agent")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (SessionId, [SESSION], [WORKSPACE, "name", SESSION.upper(), "\x00"]),
        (SessionId | WorkspaceId, [SESSION, WORKSPACE], [AGENT, "name", ""]),
        (AgentRef, [AGENT, "support-desk"], [SESSION, "Support", AGENT[:-1], "a" * 65, "\x00"]),
        (str, ["anything", SESSION, "a b"], ["a\x00b"]),
        (RestOfPath, ["a/b", ""], ["a\x00b"]),
    ],
)
def test_a_variable_accepts_only_what_its_type_allows(kind: object, good: list[str], bad: list[str]) -> None:
    built = variable(kind)
    assert [built.check(text) for text in good] == good
    for text in bad:
        with pytest.raises((InvalidId, InvalidInput)):
            built.check(text)


class Response:
    """The response that an application sends."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""

    async def send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")


async def request(one: Route, path: str, body: bytes, headers: dict[bytes, bytes] | None = None) -> Response:
    """Send a request to an application that has only this route, and no database."""

    async def anybody(headers: dict[bytes, bytes], anywhere: bool) -> Caller:
        assert working_for() is not None, "it is a request already, and comes after work under way"
        return Caller(OrgId(new_id("org")), UserId(new_id("user")))

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    response = Response()
    scope: Any = {
        "type": "http",
        "method": one.method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"deep=true",
        "headers": [(b"content-type", b"application/json"), *(headers or {}).items()],
    }
    await Api(NO_APP, (one,), anybody, Access(Metrics()))(scope, receive, response.send)
    return response


NO_APP: Any = None


async def test_a_handler_is_called_with_the_decoded_request() -> None:
    response = await request(make_thing, f"/things/{SESSION}/red", b'{"title":"box"}')
    assert (response.status, response.body) == (200, b'{"title":"red box True"}')
    refused = await request(make_thing, f"/things/{AGENT}/red", b'{"title":"box"}')
    assert (refused.status, b"invalid_id" in refused.body) == (400, True)


async def test_a_request_works_for_the_organization_of_its_caller_and_a_public_one_for_nobody() -> None:
    seen = []

    @route("GET", "/whose/{session_id}/{name}", "things")
    async def own(call: Call, session_id: SessionId, name: str) -> Thing:
        """Look."""
        seen.append((working_for(), call.caller.organization_id))
        return Thing("")

    @route("GET", "/open/{session_id}/{name}", "things", public=True)
    async def public(call: Call, session_id: SessionId, name: str) -> Thing:
        """Look."""
        seen.append((working_for(), call.caller.organization_id))
        return Thing("")

    for one, path in ((own, "whose"), (public, "open")):
        assert (await request(one, f"/{path}/{SESSION}/red", b"")).status == 200
    assert seen[0][0] == seen[0][1]
    assert seen[1] == (None, "")


async def test_a_handler_that_ignores_the_idempotency_key_is_an_internal_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @route("POST", "/things", "things", status=201)
    async def forget(call: Call, body: Body) -> Thing:
        """Make a thing."""
        return Thing(body.title)

    assert (await request(forget, "/things", b'{"title":"box"}')).status == 201
    with caplog.at_level(logging.ERROR):
        response = await request(forget, "/things", b'{"title":"box"}', {b"idempotency-key": b"mine"})
    assert response.status == 500
    assert "forget did not store its response" in caplog.text
