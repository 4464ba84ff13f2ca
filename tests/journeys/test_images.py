"""Uploaded images: in, out, smaller, gone, and only for their organization."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from perdure.api.kernel.sending import PIECE
from perdure.domain.ids import new_id
from perdure.sandbox.media import size_of
from tests.journeys.keyed import add_member, person, with_login
from tests.media_files import pdf, png
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, new_talk

PICTURE = png(600, 300)


async def upload(http: httpx.AsyncClient, data: bytes = PICTURE, name: str = "photo.png") -> Json:
    response = await http.post("/v1/images", files={"file": (name, data, "application/x-lie")})
    assert response.status_code == 201, response.text
    found: Json = response.json()
    return found


async def test_an_image_comes_back_as_it_was_and_as_a_thumbnail(api: httpx.AsyncClient) -> None:
    image = await upload(api)
    assert (image["filename"], image["content_type"], image["size_bytes"]) == (
        "photo.png", "image/png", len(PICTURE),
    )  # fmt: skip
    got = await api.get(f"/v1/images/{image['id']}")
    assert (got.content, got.headers["content-type"]) == (PICTURE, "image/png")
    assert got.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in got.headers["content-security-policy"]
    tag = got.headers["etag"]
    assert tag == f'"{hashlib.sha256(PICTURE).hexdigest()}"'
    known = await api.get(f"/v1/images/{image['id']}", headers={"If-None-Match": tag})
    assert (known.status_code, known.content) == (304, b"")
    small = await api.get(f"/v1/images/{image['id']}/thumbnail")
    assert small.headers["content-type"] == "image/jpeg"
    assert size_of(small.content) == (256, 128)
    listed = (await api.get("/v1/images", params={"limit": 100})).json()
    (info,) = [each for each in listed if each["id"] == image["id"]]
    assert info["metadata"] == {"width": 600, "height": 300, "has_thumbnail": True}
    assert (await api.delete(f"/v1/images/{image['id']}")).status_code == 204
    for path in ("", "/thumbnail"):
        gone = await api.get(f"/v1/images/{image['id']}{path}")
        assert (gone.status_code, gone.json()["code"]) == (404, "image_not_found")
    assert (await api.delete(f"/v1/images/{image['id']}")).status_code == 404


async def test_a_large_image_is_sent_in_parts_with_its_length(api: httpx.AsyncClient) -> None:
    rng = random.Random(1)
    noise = png(600, 600, b"".join(b"\0" + rng.randbytes(600) for _ in range(600)))
    assert len(noise) > PIECE
    image = await upload(api, noise)
    async with api.stream("GET", f"/v1/images/{image['id']}") as got:
        assert got.headers["content-length"] == str(len(noise))
        assert "transfer-encoding" not in got.headers
        assert await got.aread() == noise


async def test_the_list_has_pages_with_the_newest_first(api: httpx.AsyncClient) -> None:
    made = [(await upload(api, png(2, 2 + n)))["id"] for n in range(3)]
    first = (await api.get("/v1/images", params={"limit": 2})).json()
    second = (await api.get("/v1/images", params={"limit": 1, "offset": 2})).json()
    assert [each["id"] for each in (*first, *second)] == made[::-1]
    for query in ({"limit": 0}, {"limit": 101}, {"offset": -1}):
        assert (await api.get("/v1/images", params=query)).status_code == 400


BAD: dict[str, tuple[Any, int, str]] = {
    "a text": ({"files": {"file": ("a.png", b"no image", "image/png")}}, 400, "invalid_file"),
    "a PDF": ({"files": {"file": ("a.png", pdf("x"), "image/png")}}, 400, "invalid_file"),
    "half an image": ({"files": {"file": ("a.png", PICTURE[:200], "image/png")}}, 400, "invalid_file"),
    "a drawing": ({"files": {"file": ("a.svg", b"<svg/>", "image/svg+xml")}}, 400, "invalid_file"),
    "no file": ({"files": {"other": (None, b"x")}}, 400, "missing_file"),
    "JSON": ({"json": {"file": "x"}}, 415, "unsupported_media_type"),
    "no boundary": (
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "invalid_multipart",
    ),
    "a form that ends early": (
        {"content": b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\n" + PICTURE,
         "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "invalid_multipart",
    ),
    "too many bytes": ({"files": {"file": ("a.png", bytes(11_000_000), "image/png")}}, 413, "too_large"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_upload_is_refused_and_leaves_nothing(api: httpx.AsyncClient, name: str) -> None:
    request, status, code = BAD[name]
    before = (await api.get("/v1/images")).json()
    answer = await api.post("/v1/images", **request)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await api.get("/v1/images")).json() == before


async def test_an_image_of_a_session_ends_with_it(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    form = {"files": {"file": ("a.png", png(3, 7), "image/png")}}
    image = (await api.post("/v1/images", params={"session_id": talk.id}, **form)).json()
    (info,) = [each for each in (await api.get("/v1/images")).json() if each["id"] == image["id"]]
    assert info["metadata"]["session_id"] == talk.id
    await api.delete(talk.path())
    assert (await api.get(f"/v1/images/{image['id']}")).status_code == 404
    for session, status in ((new_id("session"), 404), ("session_1", 400)):
        assert (await api.post("/v1/images", params={"session_id": session}, **form)).status_code == status


async def test_nobody_else_sees_an_image_or_can_send_it(any_server: Server) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as http:
        first = (await http.get("/v1/orgs")).json()["data"][0]["id"]
        second = (await post(http, "/v1/orgs", {"name": "Second"}))["id"]
    async with person(any_server, token, second) as founder:
        _, theirs = await add_member(founder, "carol", "owner")
    async with person(any_server, token, first) as mine, person(any_server, theirs, second) as other:
        image = await upload(mine)
        await use_simulated_model(other)
        for path in ("", "/thumbnail"):
            assert (await other.get(f"/v1/images/{image['id']}{path}")).status_code == 404
        assert (await other.delete(f"/v1/images/{image['id']}")).status_code == 404
        assert (await other.get("/v1/images")).json() == []
        talk = await new_talk(other)
        part = {"type": "image_file", "image_id": image["id"]}
        sent = await other.post(talk.path("/messages"), json={"message": {"content": [part]}})
        assert (sent.status_code, sent.json()["code"]) == (404, "image_not_found")
        # The same content belongs to each organization on its own.
        twin = await upload(other)
        await mine.delete(f"/v1/images/{image['id']}")
        assert (await other.get(f"/v1/images/{twin['id']}")).content == PICTURE
        async with person(any_server, "pdr_pat_nobody") as nobody:
            assert (await nobody.get(f"/v1/images/{twin['id']}")).status_code == 401


async def test_a_server_that_dies_in_an_upload_has_all_of_the_image_or_nothing(
    database_url: str, tmp_path: Path
) -> None:
    server = Server(tmp_path / "data", database_url=database_url)
    noise = random.Random(1)
    large = png(1200, 1200, rows=b"".join(b"\0" + noise.randbytes(1200) for _ in range(1200)))
    async with server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            kept = await upload(http, PICTURE)
        for delay in (0.02, 0.2):
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
                sending = asyncio.ensure_future(http.post("/v1/images", files={"file": ("a.png", large)}))
                await asyncio.wait((sending,), timeout=delay)
                await server.restart()
                (result,) = await asyncio.gather(sending, return_exceptions=True)
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
                listed = (await http.get("/v1/images")).json()
                for each in listed:
                    got = await http.get(f"/v1/images/{each['id']}")
                    assert got.content == (PICTURE if each["id"] == kept["id"] else large)
                acknowledged = isinstance(result, httpx.Response) and result.status_code == 201
                if acknowledged:
                    assert result.json()["id"] in {each["id"] for each in listed}
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            again = await upload(http, large)
            assert (await http.get(f"/v1/images/{again['id']}")).content == large
