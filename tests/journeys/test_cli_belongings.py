"""The commands for what belongs to a session: files, storage, schedules, forks, approvals."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.client import CapabilityRef, Client, TurnWaits
from perdure.domain.variables import Variable
from tests.command import PERDURE, environment, perdure, script, use_simulated_model
from tests.media_files import png
from tests.server import Server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as made:
        await use_simulated_model(made)
        yield made


async def test_files_are_put_listed_read_moved_and_deleted(client: Client, tmp_path: Path) -> None:
    url = client.transport.base_url
    session_id = (await client.create_session()).id
    source, saved = tmp_path / "source", tmp_path / "saved"
    source.write_bytes(bytes(range(256)))

    async def run(*arguments: str, status: int = 0) -> str:
        done = await perdure("files", *arguments, url=url)
        assert done.status == status, done.err
        return done.out or done.err

    assert await run("put", session_id, "/a/b.bin", str(source)) == "wrote /a/b.bin, 256 bytes\n"
    assert await run("get", session_id, "/a/b.bin", "-o", str(saved)) == ""
    assert saved.read_bytes() == source.read_bytes()
    await client.write_file(session_id, "/note.md", "Milk\n")
    assert await run("get", session_id, "/note.md") == "Milk\n"
    await run("move", session_id, "/note.md", "/a/note.md")
    await run("copy", session_id, "/a/note.md", "/copy.md")
    listed = [line.split("\t")[-1] for line in (await run("list", session_id, "-r")).splitlines()]
    assert listed == ["PATH", "/a/", "/a/b.bin", "/a/note.md", "/copy.md"]
    assert json.loads((await run("list", session_id, "/a", "--json")).splitlines()[0])["path"] == "/a/b.bin"
    # What a forgotten file would do: standard input is empty.
    assert "standard input is empty" in await run("put", session_id, "/a/b.bin", status=1)
    assert await run("get", session_id, "/a/b.bin", "-o", str(saved)) == ""
    assert saved.read_bytes() == source.read_bytes()
    assert await run("put", session_id, "/empty", "-") == "wrote /empty, 0 bytes\n"
    assert "`--recursive` deletes it" in await run("delete", session_id, "/a", status=1)
    assert await run("delete", session_id, "/a", "-r") == "deleted /a\n"
    assert "nothing exists" in await run("delete", session_id, "/a", status=1)
    assert "cannot read" in await run("put", session_id, "/x", str(tmp_path / "none"), status=1)


async def test_a_pipe_is_sent_while_it_is_read(client: Client, tmp_path: Path) -> None:
    url, session_id = client.transport.base_url, (await client.create_session()).id
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = os.urandom(3_000_000)
    writing = asyncio.create_task(asyncio.to_thread(pipe.write_bytes, data))
    done = await perdure("files", "put", session_id, "/big.bin", str(pipe), url=url)
    await writing
    assert done.out == "wrote /big.bin, 3000000 bytes\n", done.err
    assert await client.read_file(session_id, "/big.bin") == data
    done = await perdure("files", "put", session_id, "/note.md", url=url, given="Milk\n")
    assert done.out == "wrote /note.md, 5 bytes\n", done.err
    assert await client.read_file(session_id, "/note.md") == b"Milk\n"


async def test_images_are_uploaded_listed_read_and_deleted(client: Client, tmp_path: Path) -> None:
    url, session_id = client.transport.base_url, (await client.create_session()).id
    photo, saved = tmp_path / "photo.png", tmp_path / "saved.png"
    photo.write_bytes(png(5, 4))

    async def run(*arguments: str, status: int = 0) -> str:
        done = await perdure("images", *arguments, url=url)
        assert done.status == status, done.err
        return done.out or done.err

    first, second = (await run("upload", str(photo))).splitlines()
    (image,) = await client.list_images()
    assert first == f"uploaded {image.id} (image/png, {len(png(5, 4))} bytes)"
    assert f'"image_id": "{image.id}"' in second
    own = json.loads(await run("upload", str(photo), "--session", session_id, "--json"))
    listed = [line.split("\t") for line in (await run("list")).splitlines()]
    assert [line[0] for line in listed] == ["IMAGE", own["id"], image.id]
    assert listed[2][1:4] == ["image/png", "5 x 4", str(len(png(5, 4)))]
    assert json.loads(await run("list", "--limit", "1", "--json"))["metadata"]["session_id"] == session_id
    assert await run("get", image.id, "-o", str(saved)) == ""
    assert saved.read_bytes() == png(5, 4)
    await run("get", image.id, "--thumbnail", "-o", str(saved))
    assert saved.read_bytes()[:2] == b"\xff\xd8"
    assert await run("delete", image.id) == f"deleted {image.id}\n"
    assert "no such image" in await run("get", image.id, status=1)
    assert "cannot read" in await run("upload", str(tmp_path / "none"), status=1)
    (tmp_path / "text.png").write_text("no image")
    assert "PNG, JPEG, GIF or WebP" in await run("upload", str(tmp_path / "text.png"), status=1)


async def test_secrets_schedules_forks_and_exports(client: Client) -> None:
    url = client.transport.base_url
    session_id = (await client.create_session(title="Original")).id
    await client.ask(session_id, script({"text": "Hello."}))
    done = await perdure("secrets", "set", session_id, "SHOP_TOKEN", url=url, given="t0k3n-value\n")
    assert done.out == "set SHOP_TOKEN\n"
    done = await perdure("secrets", "list", session_id, url=url)
    assert done.out.splitlines()[1].startswith("SHOP_TOKEN\t")
    assert (await perdure("storage", "list", session_id, url=url)).out == "KEY\tVALUE\n"

    done = await perdure(
        "schedules", "create", session_id, "Check.", "--cron", "0 9 * * *", "--json", url=url
    )
    schedule_id = json.loads(done.out)["id"]
    await perdure("schedules", "disable", session_id, schedule_id, url=url)
    done = await perdure("schedules", "list", session_id, url=url)
    assert done.out.splitlines()[1].split("\t")[:3] == [schedule_id, "disabled", "0 9 * * * (UTC)"]
    await perdure("schedules", "enable", session_id, schedule_id, url=url)
    assert (await client.get_schedule(session_id, schedule_id)).enabled
    await perdure("schedules", "delete", session_id, schedule_id, url=url)
    assert await client.list_schedules(session_id) == ()
    assert (await perdure("schedules", "create", session_id, "Check.", url=url)).status == 2

    fork = json.loads((await perdure("sessions", "fork", session_id, "--json", url=url)).out)
    done = await perdure("sessions", "export", fork["id"], url=url)
    assert [json.loads(line)["role"] for line in done.out.splitlines()] == ["user", "agent"]


async def test_a_call_is_approved(client: Client) -> None:
    url = client.transport.base_url
    careful = CapabilityRef("tool_approval", config={"mode": "protective"})
    session = await client.create_session(capabilities=(CapabilityRef("session_file_system"), careful))
    assert await client.pending(session.id) is None
    write = {"name": "write_file", "arguments": {"path": "/list.md", "content": "\u202eMilk"}}
    with pytest.raises(TurnWaits) as caught:
        await client.ask(session.id, script({"tool_calls": [write]}, {"text": "Written."}))
    done = await perdure("approvals", "list", session.id, url=url)
    call_id, name, arguments = done.out.splitlines()[1].split("\t")
    assert (call_id, name) == (caught.value.approvals[0].tool_call_id, "write_file")
    assert "\\u202eMilk" in arguments
    done = await perdure("approvals", "allow", session.id, call_id, url=url)
    assert done.out.startswith("decided 1 of 1")
    waits = caught.value
    assert await client.resume(waits) == "Written."
    assert await client.pending(session.id) is None
    assert (await perdure("approvals", "reject", session.id, call_id, url=url)).status == 1


async def test_messages_are_rated_and_sessions_found_by_their_ratings(client: Client) -> None:
    url = client.transport.base_url
    session_id = (await client.create_session(title="Rated")).id
    done = await perdure("feedback", "set", session_id, "up", url=url)
    assert (done.status, "has not written a message" in done.err) == (1, True)
    await client.ask(session_id, script({"text": "Hello."}))
    done = await perdure("feedback", "set", session_id, "down", "--comment", "Too short.", "--json", url=url)
    message_id = json.loads(done.out)["message_id"]
    done = await perdure("feedback", "list", session_id, "--rating", "down", url=url)
    assert [line.split("\t")[0] for line in done.out.splitlines()] == ["MESSAGE", message_id]
    assert done.out.endswith("\tToo short.\n")
    assert session_id in (await perdure("sessions", "list", "--feedback", "down", url=url)).out
    assert (await perdure("feedback", "set", session_id, "fine", url=url)).status == 2
    done = await perdure("feedback", "clear", session_id, message_id, url=url)
    assert done.out == f"cleared {message_id}\n"
    assert session_id not in (await perdure("sessions", "list", "--feedback", "down", url=url)).out


async def test_chat_gives_the_values_of_variables(client: Client) -> None:
    url = client.transport.base_url
    await client.create_agent(name="helper", system_prompt="Help {{who}}.", variables={"who": Variable()})
    hello = script({"text": "Hello."})
    done = await perdure("chat", "--agent", "helper", url=url, given=hello)
    assert (done.status, "no value for `who`" in done.err) == (1, True)
    done = await perdure("chat", "--agent", "helper", "--var", "who=a=b", url=url, given=hello)
    assert (done.status, "Hello." in done.out) == (0, True)
    (newest, *_) = (await client.list_sessions()).data
    assert newest.variables == {"who": "a=b"}
    done = await perdure("chat", newest.id, "--var", "who=Ada", url=url, given=hello)
    assert done.status == 0
    controls = [message.controls for message in await client.list_messages(newest.id)]
    assert [each.variables for each in controls if each is not None] == [{"who": "Ada"}]
    assert (await perdure("chat", "--var", "who", url=url, given=hello)).status == 2


async def test_participants_are_added_listed_and_removed(client: Client) -> None:
    url = client.transport.base_url
    session_id = (await client.create_session()).id
    agent = await client.create_agent(name="billing", system_prompt="Bills.")

    async def run(*arguments: str) -> str:
        done = await perdure("sessions", "participants", *arguments, url=url)
        return done.out or done.err

    added = (await run("add", session_id, "billing")).splitlines()[1].split("\t")
    assert added[1:4] == ["agent", "member", "billing"]
    listed = [line.split("\t")[1:3] for line in (await run("list", session_id)).splitlines()[1:]]
    assert listed == [["user", "host"], ["agent", "member"]]
    as_json = [json.loads(line) for line in (await run("list", session_id, "--json")).splitlines()]
    assert [each.get("agent_id") for each in as_json] == [None, agent.id]
    assert "takes part in the session already" in await run("add", session_id)
    assert await run("leave", session_id, added[0]) == f"removed {added[0]}\n"
    assert len((await run("list", session_id)).splitlines()) == 2


async def test_a_command_whose_parent_has_closed_standard_streams_works_without_them(client: Client) -> None:
    session_id = (await client.create_session()).id

    async def run(closed: str, *arguments: str) -> tuple[int | None, str]:
        command = ("sh", "-c", f'exec "$@" {closed}', "sh", *PERDURE, *arguments)
        process = await asyncio.create_subprocess_exec(
            *command, stdout=PIPE, stderr=STDOUT, env=environment(client.transport.base_url)
        )
        out, _ = await process.communicate()
        return process.returncode, out.decode()

    assert await run("<&-", "files", "put", session_id, "/a", "-") == (0, "wrote /a, 0 bytes\n")
    status, said = await run("<&-", "files", "put", session_id, "/a")
    assert (status, "standard input is empty" in said) == (1, True)
    assert await run("<&- >&- 2>&-", "files", "copy", session_id, "/a", "/b") == (0, "")
    assert await client.read_file(session_id, "/b") == b""
