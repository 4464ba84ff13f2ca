"""The client's requests: their headers and bodies, which are retried, and which exceptions errors raise."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure.client import (
    ApiError,
    BadAnswer,
    CapabilityRef,
    Client,
    Conflict,
    NotFound,
    RateLimited,
    ToolCallResult,
    Unreachable,
)
from perdure.domain.ids import new_id
from tests.unit.fake_server import FakeServer, Handler, Reply, Request, answers, cuts, script

NOW = "2026-03-14T09:26:53.589793Z"
LINKS = {"self_url": "/v1/x", "view_url": "/x", "ui_link": "/x"}
SESSION_ID = new_id("session")
SESSION: dict[str, Any] = {
    "id": SESSION_ID,
    "organization_id": new_id("org"),
    "harness_id": new_id("harness"),
    "status": "idle",
    "owner_principal_id": new_id("principal"),
    "workspace_id": new_id("workspace"),
    "created_at": NOW,
    "updated_at": NOW,
    "tags": [],
    "capabilities": [],
    "tools": [],
    "source": "api",
    "features": [],
    "something_newer": True,
    **LINKS,
}
MESSAGE = {
    "id": new_id("message"),
    "role": "user",
    "content": [{"type": "text", "text": "hi"}],
    "created_at": NOW,
}


async def send_hi(client: Client) -> Any:
    return await client.send_message(SESSION_ID, "hi")


async def create(client: Client) -> Any:
    return await client.create_session(title="x")


async def get(client: Client) -> Any:
    return await client.get_session(SESSION_ID)


async def update(client: Client) -> Any:
    return await client.update_session(SESSION_ID, title="x")


async def cancel(client: Client) -> Any:
    return await client.cancel(SESSION_ID)


async def call_back(client: Client) -> None:
    await client.answer_callback("pdr_cb_x", {"parcel": 7})


async def pin(client: Client) -> Any:
    return await client.pin_session(SESSION_ID)


async def test_every_request_carries_the_credentials_and_the_organization() -> None:
    async with (
        FakeServer(answers(200, {"status": "ok"})) as server,
        Client(f"{server.url}/api/", token="pdr_pat_x", organization="org_1") as client,
    ):
        assert await client.health() == {"status": "ok"}
    (request,) = server.requests
    assert request.path == "/api/health"
    assert request.headers["authorization"] == "Bearer pdr_pat_x"
    assert request.headers["x-org-id"] == "org_1"
    assert request.headers["user-agent"].startswith("perdure-python/")


async def test_create_session_sends_the_given_fields_and_ignores_unknown_fields_in_the_response() -> None:
    async with FakeServer(answers(201, SESSION)) as server, Client(server.url) as client:
        session = await client.create_session(agent_name="helper", capabilities=(CapabilityRef("session"),))
    assert (session.id, session.status) == (SESSION_ID, "idle")
    assert server.requests[0].json() == {"agent_name": "helper", "capabilities": [{"ref": "session"}]}
    assert server.requests[0].headers["content-type"] == "application/json"


async def test_an_update_distinguishes_absent_fields_from_cleared_ones() -> None:
    async with FakeServer(answers(200, SESSION)) as server, Client(server.url) as client:
        await client.update_session(SESSION_ID, title=None)
        await client.update_session(SESSION_ID, tags=("a",))
        await client.update_session(SESSION_ID)
    assert [request.json() for request in server.requests] == [{"title": None}, {"tags": ["a"]}, {}]
    assert {(request.method, request.path) for request in server.requests} == {
        ("PATCH", f"/v1/sessions/{SESSION_ID}")
    }


async def test_list_filters_are_sent_as_query_parameters_unless_unset() -> None:
    page = {"data": [SESSION], "total": 1, "offset": 0, "limit": 5}
    async with FakeServer(answers(200, page)) as server, Client(server.url) as client:
        found = await client.list_sessions(tags=("a b", "c&d"), pinned=True, search="é", limit=5)
    assert [session.id for session in found.data] == [SESSION_ID]
    assert server.requests[0].query == {
        "tags": ["a b", "c&d"],
        "pinned": ["true"],
        "search": ["é"],
        "offset": ["0"],
        "limit": ["5"],
    }


async def test_iterating_reads_all_pages_and_yields_a_session_that_moved_to_the_next_page_once() -> None:
    def page(ids: list[str], offset: int) -> Handler:
        return answers(
            200, {"data": [{**SESSION, "id": one} for one in ids], "total": 5, "offset": offset, "limit": 2}
        )

    steps = script(page(["a", "b"], 0), page(["b", "c"], 2), page(["d"], 4))
    async with FakeServer(steps) as server, Client(server.url) as client:
        seen = [session.id async for session in client.iterate_sessions(limit=2, status="idle")]
    assert seen == ["a", "b", "c", "d"]
    assert [request.query["offset"] for request in server.requests] == [["0"], ["2"], ["4"]]
    assert all(request.query["status"] == ["idle"] for request in server.requests)


async def test_an_id_cannot_change_the_route() -> None:
    async with FakeServer(answers(200, SESSION)) as server, Client(server.url) as client:
        await client.get_session("../agents?x#y")
        with pytest.raises(ValueError, match="empty id"):
            await client.get_session("")
    assert [request.raw_path for request in server.requests] == ["/v1/sessions/..%2Fagents%3Fx%23y"]


async def test_every_attempt_to_send_a_message_carries_the_same_idempotency_key() -> None:
    steps = script(cuts(), answers(503, {}), answers(201, MESSAGE))
    async with FakeServer(steps) as server, Client(server.url) as client:
        message = await send_hi(client)
        await client.send_message(SESSION_ID, "hi", idempotency_key="mine")
    assert message.id == MESSAGE["id"]
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert re.fullmatch("[0-9a-f]{32}", keys[0])
    assert keys[3] == "mine"


@pytest.mark.parametrize(
    ("call", "ok"),
    [
        (get, answers(200, SESSION)),
        (pin, answers(204)),
        (send_hi, answers(201, MESSAGE)),
        (create, answers(201, SESSION)),
        (call_back, answers(200, {"status": "accepted"})),
    ],
    ids=["GET", "PUT", "a message", "a new session", "the answer to a callback"],
)
@pytest.mark.parametrize("trouble", [cuts(), answers(503, {}), answers(429, {})], ids=["cut", "503", "429"])
async def test_idempotent_requests_are_retried(
    call: Callable[[Client], Awaitable[Any]], ok: Handler, trouble: Handler
) -> None:
    async with FakeServer(script(trouble, ok)) as server, Client(server.url) as client:
        await call(client)
    assert len(server.requests) == 2


@pytest.mark.parametrize("call", [cancel, update], ids=["POST", "PATCH"])
async def test_other_requests_are_not_retried(call: Callable[[Client], Awaitable[Any]]) -> None:
    async with FakeServer(cuts()) as server, Client(server.url) as client:
        with pytest.raises(Unreachable):
            await call(client)
    assert len(server.requests) == 1
    async with FakeServer(answers(503, {"title": "later"})) as server, Client(server.url) as client:
        with pytest.raises(ApiError, match="later"):
            await call(client)
    assert len(server.requests) == 1


async def test_every_request_is_retried_after_a_429() -> None:
    async with (
        FakeServer(script(answers(429, {}), answers(200, SESSION))) as server,
        Client(server.url) as client,
    ):
        await update(client)
    assert len(server.requests) == 2


async def test_a_deletion_whose_response_was_lost_succeeds() -> None:
    async with FakeServer(script(cuts(), answers(404, {}))) as server, Client(server.url) as client:
        await client.delete_session(SESSION_ID)
    async with FakeServer(answers(404, {})) as server, Client(server.url) as client:
        with pytest.raises(NotFound):
            await client.delete_session(SESSION_ID)
    # There is no answer that could be returned.
    async with FakeServer(script(cuts(), answers(404, {}))) as server, Client(server.url) as client:
        with pytest.raises(NotFound):
            await client.unarchive_session(SESSION_ID)


async def test_retries_are_bounded() -> None:
    async with (
        FakeServer(answers(503, {"detail": "busy"})) as server,
        Client(server.url, retries=2) as client,
    ):
        with pytest.raises(ApiError, match="busy") as caught:
            await get(client)
    assert caught.value.status == 503
    assert len(server.requests) == 3


async def test_a_short_retry_after_is_waited_for_and_a_long_one_is_raised() -> None:
    async with (
        FakeServer(
            script(answers(429, {"retry_after_seconds": 0}), answers(429, {}, retry_after="120"))
        ) as server,
        Client(server.url) as client,
    ):
        with pytest.raises(RateLimited) as caught:
            await get(client)
    assert caught.value.retry_after == 120
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "kind"), [(400, ApiError), (401, ApiError), (404, NotFound), (409, Conflict), (500, ApiError)]
)
async def test_an_error_carries_the_fields_of_the_problem_document(status: int, kind: type[ApiError]) -> None:
    problem = {"status": status, "title": "Title", "detail": "how to fix it", "code": "some_code", "extra": 1}
    async with FakeServer(answers(status, problem)) as server, Client(server.url) as client:
        with pytest.raises(kind) as caught:
            await get(client)
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.message, str(error)) == (
        status,
        "some_code",
        "how to fix it",
        "how to fix it",
    )
    assert error.problem == problem


async def test_an_error_without_a_readable_body_names_the_status() -> None:
    async def html(_: Request, reply: Reply) -> None:
        await reply.start(400, "text/html")
        await reply.send(b"<h1>\xff no</h1>")

    async with FakeServer(html) as server, Client(server.url) as client:
        with pytest.raises(ApiError) as caught:
            await get(client)
    assert (caught.value.code, caught.value.message) == ("http_400", "the server answered with status 400")


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("-1", 0.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("soon", None)]
)
async def test_the_retry_after_header_is_a_number_or_a_date(header: str, seconds: float | None) -> None:
    async with (
        FakeServer(answers(429, {}, retry_after=header)) as server,
        Client(server.url, retries=0) as client,
    ):
        with pytest.raises(RateLimited) as caught:
            await get(client)
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"id": 1}', b"\xff"])
async def test_a_response_that_is_not_from_perdure_is_a_bad_answer(body: bytes) -> None:
    async def other(_: Request, reply: Reply) -> None:
        await reply.start(200, "application/json")
        await reply.send(body)

    async with FakeServer(other) as server, Client(server.url) as client:
        with pytest.raises(BadAnswer, match="is not valid"):
            await get(client)


async def test_an_unreachable_server_is_an_error_that_names_the_url() -> None:
    async with FakeServer(answers(200, {})) as server:
        pass
    async with Client(server.url, retries=1) as client:
        with pytest.raises(Unreachable, match=re.escape(f"no answer from {server.url}: ")):
            await create(client)


@pytest.mark.parametrize("url", ["", "localhost:9000", "ftp://x", "http://", "http://x:port", "/v1"])
def test_an_invalid_base_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="not a URL"):
        Client(url)


async def test_tool_results_are_sent_in_one_request() -> None:
    async with (
        FakeServer(answers(200, {"accepted": 2, "status": "active"})) as server,
        Client(server.url) as client,
    ):
        done = await client.submit_tool_results(
            SESSION_ID, [ToolCallResult("call_1", result={"a": 1}), ToolCallResult("call_2", error="no")]
        )
    assert done.accepted == 2
    assert server.requests[0].json() == {
        "tool_results": [
            {"tool_call_id": "call_1", "result": {"a": 1}},
            {"tool_call_id": "call_2", "error": "no"},
        ]
    }


async def test_models_are_registered_under_their_provider() -> None:
    model = {
        "id": new_id("model"),
        "model_id": "tiny",
        "display_name": "Tiny",
        "provider_id": new_id("provider"),
        "enabled": True,
        "capabilities": [],
        "is_favorite": False,
        "source": "manual",
        "created_at": NOW,
        "updated_at": NOW,
        **LINKS,
    }
    steps = script(answers(201, model), answers(200, {"data": [model]}), answers(200, {"data": [model]}))
    async with FakeServer(steps) as server, Client(server.url) as client:
        made = await client.create_model("provider_1", model_id="tiny", display_name="Tiny")
        assert await client.list_models() == await client.list_provider_models("provider_1") == (made,)
    assert [f"{request.method} {request.path}" for request in server.requests] == [
        "POST /v1/providers/provider_1/models",
        "GET /v1/models",
        "GET /v1/providers/provider_1/models",
    ]


async def test_a_download_that_is_cut_goes_on_where_it_ended() -> None:
    async def half(_: Request, reply: Reply) -> None:
        await reply.start(200, "application/octet-stream", etag='"abc"', content_length="10")
        await reply.send(b"01234")
        reply.cut()

    async def rest(request: Request, reply: Reply) -> None:
        assert (request.headers["range"], request.headers["if-match"]) == ("bytes=5-", '"abc"')
        await reply.start(206, "application/octet-stream", etag='"abc"', content_length="5")
        await reply.send(b"56789")

    async def changed(_: Request, reply: Reply) -> None:
        await reply.json(412, {"code": "precondition_failed", "detail": "it has changed"})

    async with FakeServer(script(half, rest)) as server, Client(server.url) as client:
        assert b"".join([piece async for piece in client.download_file(SESSION_ID, "a")]) == b"0123456789"
    async with FakeServer(script(half, changed)) as server, Client(server.url) as client:
        with pytest.raises(ApiError):
            [piece async for piece in client.download_file(SESSION_ID, "a")]
