"""Files of messages: what the log has of them, what each kind of model gets, and who else sees them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from perdure.settings import Settings
from perdure.store.blobs import KEPT, purge_blobs
from perdure.wiring import open_parts
from tests.conformance.drivers.converse import ConverseWire
from tests.conformance.drivers.protocols import GeminiWire, Wire
from tests.conformance.drivers.vendor import Reply, Vendor, open_vendor
from tests.media_files import docx, mp3, ogg, pdf, png, pptx, wav, xlsx
from tests.server import Server, post, use_simulated_model
from tests.sites import Site
from tests.talk import Json, Talk, new_talk, script
from tests.vendors import CHAT, MESSAGES, RESPONSES, answer, new_model, reply, vendor_provider


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def inline(data: bytes, filename: str | None = None, **more: Any) -> Json:
    return {"type": "file", "base64": b64(data), **({"filename": filename} if filename else {}), **more}


async def upload(http: httpx.AsyncClient, data: bytes, name: str = "photo.png", **query: str) -> Json:
    response = await http.post("/v1/images", files={"file": (name, data, "image/png")}, params=query)
    assert response.status_code == 201, response.text
    found: Json = response.json()
    return found


async def send(talk: Talk, *content: Json | str, status: int = 201) -> Json:
    parts = [each if isinstance(each, dict) else {"type": "text", "text": each} for each in content]
    response = await talk.http.post(talk.path("/messages"), json={"message": {"content": parts}})
    assert response.status_code == status, response.text
    found: Json = response.json()
    return found


async def turn(talk: Talk, *content: Json | str) -> None:
    before = len(await talk.events())
    await send(talk, *content)
    await talk.logged_until("session.idled", after=before)


@pytest_asyncio.fixture
async def vendor() -> AsyncIterator[Vendor]:
    async with open_vendor() as opened:
        yield opened


async def talk_to(http: httpx.AsyncClient, vendor: Vendor, wire: Wire, model: str, **fields: Any) -> Talk:
    provider = await vendor_provider(http, vendor, wire)
    made = await new_model(http, provider, model)
    return await new_talk(http, model_id=made["id"], harness_name="base", **fields)


PICTURE, BOOK, SOUND = png(5, 4), pdf("Twelve pears"), wav()
KINDS: dict[str, tuple[bytes, str]] = {
    "image": (PICTURE, "photo.png"), "pdf": (BOOK, "book.pdf"), "audio": (SOUND, "sound.wav"),
    "mp3": (mp3(), "sound.mp3"), "ogg": (ogg(), "sound.ogg"), "text": (b"plain pears\n", "notes.md"),
    "docx": (docx("Written pears"), "letter.docx"), "xlsx": (xlsx(), "prices.xlsx"),
    "pptx": (pptx("Shown pears"), "talk.pptx"), "scan": (pdf(""), "scan.pdf"),
}  # fmt: skip
TEXTS = {
    "pdf": "Twelve pears", "text": "plain pears", "docx": "Written pears", "xlsx": "item\t\tcost",
    "pptx": "Shown pears",
}  # fmt: skip
SEES, READS_ALL, BLIND = "pixtral-12b", "gemini-2.5-pro", "deepseek-chat"
NATIVE: dict[tuple[str, str], Json] = {
    ("chat", "image"): {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64(PICTURE)}"}},
    ("chat", "pdf"): {
        "type": "file",
        "file": {"filename": "book.pdf", "file_data": f"data:application/pdf;base64,{b64(BOOK)}"},
    },
    ("chat", "audio"): {"type": "input_audio", "input_audio": {"data": b64(SOUND), "format": "wav"}},
    ("chat", "mp3"): {"type": "input_audio", "input_audio": {"data": b64(mp3()), "format": "mp3"}},
    ("responses", "image"): {
        "type": "input_image", "image_url": f"data:image/png;base64,{b64(PICTURE)}", "detail": "auto",
    },
    ("responses", "pdf"): {
        "type": "input_file", "filename": "book.pdf",
        "file_data": f"data:application/pdf;base64,{b64(BOOK)}",
    },
    ("messages", "image"): {
        "type": "image", "source": {"type": "base64", "media_type": "image/png", "data": b64(PICTURE)},
    },
    ("messages", "pdf"): {
        "type": "document", "title": "book.pdf",
        "source": {"type": "base64", "media_type": "application/pdf", "data": b64(BOOK)},
    },
    **{
        ("gemini", kind): {"inlineData": {"mimeType": media_type, "data": b64(KINDS[kind][0])}}
        for kind, media_type in {
            "image": "image/png", "pdf": "application/pdf", "audio": "audio/wav", "mp3": "audio/mp3",
            "ogg": "audio/ogg",
        }.items()
    },
    ("converse", "image"): {"image": {"format": "png", "source": {"bytes": b64(PICTURE)}}},
    ("converse", "pdf"): {
        "document": {"format": "pdf", "name": "book pdf", "source": {"bytes": b64(BOOK)}},
    },
    **{
        ("converse", kind): {"audio": {"format": form, "source": {"bytes": b64(KINDS[kind][0])}}}
        for kind, form in {"audio": "wav", "mp3": "mp3", "ogg": "ogg"}.items()
    },
}  # fmt: skip
DRIVERS: dict[str, Wire] = {
    "chat": CHAT, "responses": RESPONSES, "messages": MESSAGES, "gemini": GeminiWire(),
    "converse": ConverseWire(),
}  # fmt: skip


def sent_parts(vendor: Vendor) -> list[Json]:
    """The parts of the newest message that the vendor got; a plain text is one part."""
    body = vendor.sent
    newest = (body.get("messages") or body.get("input") or body["contents"])[-1]
    content = newest.get("parts") or newest["content"]
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [_shown(part) for part in content]


def _shown(part: Json) -> Json:
    if "name" in part.get("document", {}):  # it ends with what makes it the only one of its name
        plain = part["document"]["name"].rpartition(" (")[0]
        return {"document": {**part["document"], "name": plain}}
    return {name: value for name, value in part.items() if name != "cache_control"}


def expected(driver: str, model: str, kind: str) -> str:
    """How a model gets a kind of file: `native`, `extracted`, or `left out`."""
    reads = {READS_ALL: {"image", "pdf", "audio", "mp3", "ogg"}, SEES: {"image"}, BLIND: set[str]()}[model]
    if kind in reads and (driver, kind) in NATIVE:
        return "native"
    if kind == "scan":
        return "a scan" if model == READS_ALL else "left out"
    return "extracted" if kind in TEXTS else "left out"


@pytest.mark.parametrize(
    "model", [READS_ALL, *(pytest.param(each, marks=pytest.mark.soak) for each in (SEES, BLIND))]
)
@pytest.mark.parametrize("driver", DRIVERS)
async def test_each_model_gets_each_kind_of_file_as_it_can_take_it(
    server_talks: httpx.AsyncClient, vendor: Vendor, driver: str, model: str
) -> None:
    talk = await talk_to(server_talks, vendor, DRIVERS[driver], model)
    for kind, (data, name) in KINDS.items():
        vendor.will(answer("Seen.", DRIVERS[driver]))
        await turn(talk, f"look at {kind}", inline(data, name))
        words = json.dumps(sent_parts(vendor), ensure_ascii=False)
        how = expected(driver, model, kind)
        assert (NATIVE.get((driver, kind)) in sent_parts(vendor)) is (how == "native"), (kind, words)
        if how == "extracted":
            assert TEXTS[kind] in words.replace("\\t", "\t"), kind
            assert f"[file {name}: " in words
        if how == "left out":
            assert f"[file {name}: " in words, kind
            assert "left out, because " in words, kind
        assert (b64(data) in words) is (how in ("native", "a scan")), kind
    logged = json.dumps(await talk.events())
    assert not any(b64(data)[:60] in logged for data, _ in KINDS.values()), "the log has references only"


@pytest.fixture
async def server_talks(sqlite_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sqlite_server.url, timeout=60) as client:
        yield client


async def test_a_message_has_references_that_lead_to_the_file(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    image = await upload(api, PICTURE)
    await post(api, talk.path("/fs/own/notes.txt"), {"content": "my notes"})
    await turn(
        talk,
        "look",
        {"type": "image_file", "image_id": image["id"]},
        {"type": "image", "base64": b64(PICTURE), "media_type": "image/png"},
        {"type": "image", "url": f"data:image/png;base64,{b64(png(9, 9))}"},
        {"type": "file", "path": "/own/notes.txt"},
        inline(BOOK, "../../etc/book.pdf"),
        inline(pdf("Another one"), "book.pdf"),
    )
    content = (await talk.messages())[0]["content"]
    stored = [part.get("stored") for part in content]
    assert [part["type"] for part in content] == ["text", "image_file", "image", "image", *["file"] * 3]
    assert (content[1]["image_id"], content[1]["filename"]) == (image["id"], "photo.png")
    digest = hashlib.sha256(PICTURE).hexdigest()
    assert stored[1]["digest"] == stored[2]["digest"] == digest
    assert (stored[1]["width"], stored[1]["height"], stored[1]["path"]) == (5, 4, "/attachments/photo.png")
    assert stored[4]["path"] == "/own/notes.txt"
    assert stored[5]["path"] == "/attachments/book.pdf"
    second = hashlib.sha256(pdf("Another one")).hexdigest()
    assert stored[6]["path"] == f"/attachments/book-{second[:8]}.pdf"
    assert content[5]["filename"] == "book.pdf"
    for part in stored[1:]:
        data = (await api.get(talk.path(f"/fs/_/download{part['path']}"))).content
        assert hashlib.sha256(data).hexdigest() == part["digest"]


async def test_tools_read_the_file_at_its_path_and_the_model_is_told_where(
    api: httpx.AsyncClient, vendor: Vendor
) -> None:
    provider = await vendor_provider(api, vendor, CHAT)
    model = await new_model(api, provider, SEES)
    talk = await new_talk(api, model_id=model["id"])
    command = '{"command": "cat /workspace/attachments/notes.md"}'
    vendor.will(Reply(CHAT.answer(calls=[("c1", "bash", [command])])), answer("Done."))
    await turn(talk, inline(b"plain pears\n", "notes.md"))
    first = json.dumps(vendor.asked[-2].body)
    assert "at /workspace/attachments/notes.md" in first
    results = [event["data"] for event in await talk.events() if event["type"] == "tool.completed"]
    assert "plain pears" in json.dumps(results)


REFUSED: dict[str, tuple[Json, str, str]] = {
    "an unknown type": (inline(b"\x7fELF" + bytes(200)), "invalid_file", "is none of these"),
    "a drawing as an image": (
        {"type": "image", "base64": b64(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
         "media_type": "image/svg+xml"}, "invalid_request", "PNG, JPEG, GIF or WebP",
    ),
    "a type that the content contradicts": (
        inline(png(), "x.pdf", media_type="application/pdf"), "invalid_file", "its content is image/png",
    ),
    "a cut PDF": (inline(BOOK[:-80]), "invalid_file", "not a complete PDF"),
    "two sources": ({**inline(b"a"), "url": "https://example.com/a"}, "invalid_request", "exactly one of"),
    "no source": ({"type": "file"}, "invalid_request", "exactly one of"),
    "no base64": ({"type": "file", "base64": "??"}, "invalid_request", "is not base64"),
    "a URL of another scheme": ({"type": "file", "url": "file:///etc/passwd"}, "invalid_request", "http"),
    "a private URL": (
        {"type": "file", "url": "http://127.0.0.1:8000/x"}, "file_not_fetched", "not a public host",
    ),
    "a private URL of an image": (
        {"type": "image", "url": "http://169.254.169.254/latest"}, "file_not_fetched", "not a public host",
    ),
    "a reference of one's own": (
        {"type": "file", "path": "/a", "stored": {"digest": "0" * 64, "size_bytes": 1, "media_type": "a/b"}},
        "invalid_request", "is set by the server",
    ),
    "an id of something else": ({"type": "image_file", "image_id": "image_1"}, "invalid_id", "image_<32"),
}  # fmt: skip


async def test_a_bad_file_is_refused_and_nothing_is_logged(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    for name, (part, code, words) in REFUSED.items():
        problem = await send(talk, "look", part, status=400)
        assert problem["code"] == code, name
        assert words in problem["detail"], name
        assert problem["field"].startswith("message.content[1]"), name
    assert (await send(talk, {"type": "file", "path": "/no"}, status=404))["code"] == "file_not_found"
    missing = {"type": "image_file", "image_id": "image_" + "0" * 32}
    assert (await send(talk, missing, status=404))["code"] == "image_not_found"
    large = {"type": "file", "base64": b64(bytes(11_000_000))}
    assert (await api.post(talk.path("/messages"), json={"message": {"content": [large]}})).status_code == 413
    many = await send(talk, *[inline(b"a")] * 21, status=400)
    assert "at most 20 files" in many["detail"]
    assert await talk.messages() == []
    assert (await api.get(talk.path("/fs"))).json()["data"] == []


async def test_slow_sites_do_not_delay_messages_whose_bytes_are_here(
    database_url: str, tmp_path: Path, site: Site
) -> None:
    enough = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await enough.wait()
        return web.Response(body=b"late pears")

    site.answers["/slow"] = slow
    server = Server(
        tmp_path / "data", database_url=database_url, environment={"PERDURE_PRIVATE_ADDRESSES": "true"}
    )
    async with server, httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        talk = await new_talk(http)
        late = [asyncio.create_task(send(talk, {"type": "file", "url": site.url("/slow")})) for _ in range(5)]
        while "/slow" not in site.asked:
            await asyncio.sleep(0)
        assert (await send(talk, inline(b"early pears")))["content"][0]["stored"]["size_bytes"] == 11
        assert not any(each.done() for each in late)
        enough.set()
        await asyncio.gather(*late)


async def test_files_are_fetched_under_the_rules_of_the_session(
    database_url: str, tmp_path: Path, site: Site
) -> None:
    site.answers["/book"] = web.Response(body=BOOK, headers={"Content-Type": "text/html"})
    site.answers["/photo.png"] = web.Response(body=PICTURE)
    site.answers["/gone"] = web.Response(status=404)
    site.answers["/odd\0name\n.png"] = web.Response(body=PICTURE)
    site.answers["/page"] = web.Response(body=b"\0\1\2\3")
    server = Server(
        tmp_path / "data", database_url=database_url, environment={"PERDURE_PRIVATE_ADDRESSES": "true"}
    )
    async with server, httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        await use_simulated_model(http)
        talk = await new_talk(http)
        picture = {"type": "image", "url": site.url("/photo.png")}
        await turn(talk, "look", {"type": "file", "url": site.url("/book")}, picture)
        _, book, photo = (await talk.messages())[0]["content"]
        assert (book["filename"], book["media_type"], book["stored"]["pages"]) == (
            "book",
            "application/pdf",
            1,
        )
        assert photo["stored"]["digest"] == hashlib.sha256(PICTURE).hexdigest()
        assert "url" not in photo
        first = (await talk.events(types="input.message"))[0]["data"]
        assert first["external"] == [{"source": "127.0.0.1"}]
        for path, words in (("/gone", "status 404"), ("/page", "is none of these")):
            problem = await send(talk, {"type": "file", "url": site.url(path)}, status=400)
            assert words in problem["detail"]
        await turn(talk, {"type": "file", "url": site.url("/odd%00name%0A.png")})
        (odd,) = [each for each in await talk.messages() if each["content"][0]["type"] == "file"][-1][
            "content"
        ]
        assert "filename" not in odd
        assert odd["stored"]["path"] == f"/attachments/file-{odd['stored']['digest'][:8]}.png"
        narrow = await new_talk(http, network_access={"allowed": ["example.com"]})
        problem = await send(narrow, picture, status=400)
        assert "may reach" in problem["detail"]
        assert site.asked.count("/photo.png") == 1


async def test_a_repeated_message_fetches_nothing_and_is_the_first_one(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    body = {"message": {"content": [inline(BOOK, "book.pdf")]}}
    headers = {"Idempotency-Key": f"once-{talk.id}"}
    first = await api.post(talk.path("/messages"), json=body, headers=headers)
    again = await api.post(talk.path("/messages"), json=body, headers=headers)
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    files = (await api.get(talk.path("/fs/attachments"))).json()["data"]
    assert [each["path"] for each in files] == ["/attachments/book.pdf"]


async def test_a_file_that_the_server_of_a_model_refuses_is_sent_as_text_from_then_on(
    server_talks: httpx.AsyncClient, vendor: Vendor
) -> None:
    talk = await talk_to(server_talks, vendor, CHAT, READS_ALL)
    refusal = {"error": {"message": "Invalid content type: file parts are not supported", "type": "x"}}
    vendor.will(reply(refusal, 400), answer("Read."), answer("Still."))
    await turn(talk, "look", inline(BOOK, "book.pdf"))
    assert b64(BOOK) in json.dumps(vendor.asked[-2].body)
    assert "Twelve pears" in json.dumps(vendor.sent)
    await turn(talk, "and?")
    assert b64(BOOK) not in json.dumps(vendor.sent)


async def test_a_fork_and_an_export_have_the_files_and_deleting_the_original_takes_nothing(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    await turn(talk, script({"text": "Seen."}), inline(BOOK, "book.pdf"))
    copy = Talk(api, (await api.post(talk.path("/fork"), json={})).json()["id"])
    exported = (await api.get(talk.path("/export"))).text
    assert hashlib.sha256(BOOK).hexdigest() in exported
    assert b64(BOOK)[:50] not in exported
    assert (await api.delete(talk.path())).status_code == 204
    assert (await api.get(copy.path("/fs/_/download/attachments/book.pdf"))).content == BOOK
    events = await copy.turn({"text": "Still here."})
    assert events[-2]["type"] == "turn.completed"


async def contents_after_purge(database_url: str, tmp_path: Path) -> set[str]:
    """Remove what nothing needs, as the sweep does an hour later; return the hashes of the rest."""
    async with open_parts(Settings(data=str(tmp_path / "data"), database_url=database_url)) as parts:
        database = parts.app.database
        await database.write(lambda tx: purge_blobs(tx, parts.app.now() + 2 * KEPT))
        return {row[0] for row in await database.read(lambda tx: tx.all("SELECT hash FROM blobs"))}


async def test_contents_are_purged_when_nothing_needs_them_any_more(
    database_url: str, tmp_path: Path
) -> None:
    server = Server(tmp_path / "data", database_url=database_url)
    big = png(700, 700, rows=b"".join(b"\0" + random.Random(y).randbytes(700) for y in range(700)))
    async with server, httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        await use_simulated_model(http)
        talk, other = await new_talk(http), await new_talk(http)
        image = await upload(http, big)
        await upload(http, png(8, 8), session_id=other.id)
        await turn(
            talk, script({"text": "Seen."}), {"type": "image_file", "image_id": image["id"]}, inline(BOOK)
        )
        await http.delete(f"/v1/images/{image['id']}")
        await http.delete(talk.path("/fs/attachments"), params={"recursive": "true"})
        await http.delete(other.path())
        assert (await http.get("/v1/images")).json() == []
        await server.stop()
        assert await contents_after_purge(database_url, tmp_path) == {
            hashlib.sha256(big).hexdigest(), hashlib.sha256(BOOK).hexdigest(),
            hashlib.sha256(b"[page 1]\nTwelve pears").hexdigest(),
        }, "the conversation still has them"  # fmt: skip
        await server.start()
        events = await talk.turn({"text": "Still seen."})
        assert events[-2]["type"] == "turn.completed"
        await http.delete(talk.path())
        await server.stop()
        assert await contents_after_purge(database_url, tmp_path) == set()
        await server.start()
