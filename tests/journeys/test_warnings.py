"""Unknown fields and parameters: named in the answer, or refused if the client is strict."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from tests.journeys.world import ROUTES, World, complaint
from tests.server import Server, post
from tests.talk import body_of

STRICT = {"Perdure-Strict": "true"}
PART = {"type": "text", "text": "x"}


@pytest.fixture
async def api(sqlite_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sqlite_server.url, timeout=30) as client:
        yield client


TOOL = {"type": "client_side", "name": "t", "description": "d", "parameters": {"type": "object"}}
BODIES: list[tuple[str, Any, list[str]]] = [
    ("", {"tittle": "x"}, ["`tittle` was ignored: did you mean `title`?"]),
    ("", {"a": 1, "b": {"c": 2}}, ["`a` was ignored", "`b` was ignored"]),
    ("", {"tools": [TOOL, {**TOOL, "name": "u", "x": 1}]}, ["`tools[1].x` was ignored"]),
    ("", {"capabilities": [{"ref": "web_fetch", "conf": {}}]}, ["`capabilities[0].conf` was ignored"]),
    ("", {"hints": {"anything": {"goes": 1}}, "metadata": {"any": "name"}}, []),
    ("/messages", body_of("x", titel=1), ["`titel` was ignored"]),
    ("/messages", {"message": {"content": [PART | {"txt": 1}]}}, ["`message.content[0].txt` was ignored"]),
    (
        "/messages",
        body_of("x", controls={"reasoning": {"efort": "low"}}, metadata={"x": {"y": 1}}),
        ["`controls.reasoning.efort` was ignored: did you mean `controls.reasoning.effort`?"],
    ),
    ("/messages", body_of("x", model_id="x"), ["`model_id` was ignored"]),
    ("/fork", {"titel": "x"}, ["`titel` was ignored: did you mean `title`?"]),
]


@pytest.mark.parametrize(("path", "body", "expected"), BODIES)
async def test_an_unknown_field_is_named_with_its_path(
    api: httpx.AsyncClient, path: str, body: Any, expected: list[str]
) -> None:
    session = await post(api, "/v1/sessions", {})
    url = f"/v1/sessions/{session['id']}{path}" if path else "/v1/sessions"
    answer = await api.post(url, json=body)
    assert answer.status_code == 201, answer.text
    warnings = answer.json().get("warnings", [])
    assert len(warnings) == len(expected)
    for warning, words in zip(warnings, expected, strict=True):
        assert f"unknown field {words}" in warning
    assert ("perdure-warnings" in answer.headers) == bool(expected)
    answer = await api.post(url, json=body, headers=STRICT)
    assert answer.status_code == (400 if expected else 201), answer.text
    if expected:
        assert (complaint(answer), answer.json()["code"]) == (None, "unknown_field")
        assert f"`{answer.json()['field']}`" in expected[0]


async def test_every_route_with_a_body_refuses_unknown_fields_of_strict_clients(
    sqlite_server: Server, api: httpx.AsyncClient
) -> None:
    world = World(sqlite_server, api)
    await world.fill()
    before, told = await world.state(), []
    for route in ROUTES:
        if route.body is None or not isinstance(route.body, type) or route.command:
            continue
        example = route.body_example if isinstance(route.body_example, dict) else {}
        answer = await world.send(route, json={**example, "nobody_knows": 1}, headers=STRICT)
        refused = complaint(answer) is None and answer.json().get("field") == "nobody_knows"
        if issubclass(route.body, msgspec.Struct) and not refused:
            told.append(f"{route.operation_id}: {answer.status_code} {answer.text[:120]}")
    assert told == []
    assert await world.state() == before


async def test_where_no_body_can_name_them_a_header_does(api: httpx.AsyncClient) -> None:
    session = await post(api, "/v1/sessions", {})
    base = f"/v1/sessions/{session['id']}"
    answer = await api.get("/v1/sessions", params={"limitt": "3", "\u00e9\r\nx": "1"})
    assert answer.headers["perdure-warnings"].startswith("unknown parameter `limitt` was ignored; ")
    assert "warnings" not in answer.json()
    answer = await api.put(f"{base}/pin", params={"x": "1"})
    assert (answer.status_code, answer.headers["perdure-warnings"]) == (
        204,
        "unknown parameter `x` was ignored",
    )
    for method, url in (("GET", base), ("GET", "/v1/sessions"), ("PUT", f"{base}/pin"), ("DELETE", base)):
        answer = await api.request(method, url, params={"x": "1"}, headers=STRICT)
        assert (answer.status_code, answer.json()["code"]) == (400, "unknown_parameter"), url
    assert (await api.get(base, headers=STRICT)).status_code == 200


async def test_a_huge_body_is_not_searched(api: httpx.AsyncClient) -> None:
    session = await post(api, "/v1/sessions", {})
    url = f"/v1/sessions/{session['id']}/messages"
    many_values = body_of("Hello.", unknown=[0] * 120_000)
    answer = await api.post(url, json=many_values)
    assert (answer.status_code, "warnings" in answer.json()) == (201, False)
    assert (await api.post(url, json=many_values, headers=STRICT)).status_code == 400
    # A text is one value, whatever is in it.
    answer = await api.post(url, json=body_of("a:b,\n" * 60_000, unknown=1))
    assert answer.json()["warnings"] == ["unknown field `unknown` was ignored"]
    assert (await api.post(url, json=body_of("a:b,\n" * 60_000), headers=STRICT)).status_code == 201
    file = {"content": "a:b," * 60_000, "enc": "x", "is_readonly": False}
    answer = await api.post(f"/v1/sessions/{session['id']}/fs/a.txt", json=file, headers=STRICT)
    assert (answer.status_code, answer.json()["field"]) == (400, "enc")
    answer = await api.post(f"/v1/sessions/{session['id']}/fs/a.txt", json=file)
    assert answer.json()["warnings"] == ["unknown field `enc` was ignored"]
    many = {f"field{number}": number for number in range(20_000)}
    answer = await api.post("/v1/sessions", json=many)
    assert len(answer.json()["warnings"]) == 20
    assert len(answer.headers["perdure-warnings"]) <= 4000
