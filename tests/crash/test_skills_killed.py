"""kill -9 during uploads and activations of skills: each is there whole or not at all, and once."""

from __future__ import annotations

import asyncio
import io
from functools import cache
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import httpx
import pytest

from perdure.domain.files import content_of
from perdure.domain.skills import version_of
from tests.crash.hanging import HangingServer, Moment
from tests.server import Server, use_simulated_model
from tests.talk import Json, Talk, new_talk, script, when

FILES, SIZE = 5, 300_000
"""Further files of a skill, and bytes of each: more than one part of a content."""
ROUNDS, AT_ONCE = 2, 4


@cache
def packed(name: str) -> bytes:
    """An archive: the same bytes each time, although it has the time in it."""
    data = io.BytesIO()
    with ZipFile(data, "w", ZIP_STORED) as archive:
        archive.writestr("SKILL.md", f"---\nname: {name}\ndescription: Knows {name}.\n---\n\nLook.\n")
        for number in range(FILES):
            archive.writestr(f"data/{number}.txt", f"{name} {number} " * (SIZE // 20))
    return data.getvalue()


async def upload(http: httpx.AsyncClient, name: str) -> httpx.Response:
    headers = {"content-type": "application/zip", "idempotency-key": f"upload-{name}"}
    return await http.post("/v1/skills/upload", content=packed(name), headers=headers)


async def check_whole(http: httpx.AsyncClient, skill: Json) -> None:
    """The files are those that the version is the digest of."""
    content = (await http.get(f"{skill['self_url']}/content")).json()
    texts = {"SKILL.md": content["skill_md"], **{each["path"]: each["content"] for each in content["files"]}}
    assert len(texts) == FILES + 1
    hashes = {path: content_of(text.encode()).hash for path, text in texts.items()}
    assert version_of(hashes) == skill["version"]


async def test_killed_uploads_leave_whole_skills_and_a_repetition_makes_each_once(
    database_url: str, tmp_path: Path
) -> None:
    server = Server(tmp_path / "data", database_url=database_url)
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        done: dict[str, str] = {}
        for round_number in range(ROUNDS):
            names = [f"skill-{round_number}-{number}" for number in range(AT_ONCE)]
            tasks = {name: asyncio.ensure_future(upload(http, name)) for name in names}
            await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            await server.kill()
            answers = dict(
                zip(names, await asyncio.gather(*tasks.values(), return_exceptions=True), strict=True)
            )
            await server.start()
            for skill in (await http.get("/v1/skills")).json()["data"]:
                await check_whole(http, skill)
            for name, answer in answers.items():
                again = await upload(http, name)
                assert again.status_code == 201, again.text
                if isinstance(answer, httpx.Response):
                    assert again.json() == answer.json()
                done[name] = again.json()["id"]
        listed = (await http.get("/v1/skills")).json()["data"]
        assert {each["name"]: each["id"] for each in listed} == done
        for skill in listed:
            await check_whole(http, skill)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_killed_activation_runs_again_and_its_files_are_there_once(
    moment: Moment, database_url: str, tmp_path: Path
) -> None:
    server = HangingServer(tmp_path / "data", moment, database_url=database_url)
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        skill = (await upload(http, "orders")).json()
        talk = await new_talk(http, capabilities=[{"ref": f"skill:{skill['id']}"}])
        activate = {"name": "activate_skill", "arguments": {"name": "orders"}, "id": "hang_once"}
        message = await talk.say(script({"tool_calls": [activate]}, {"text": "Done."}))

        async def hangs() -> bool:
            return bool(server.hanging())

        await when(hangs)
        # What the agent has pinned is what it gets, also after the crash.
        await server.restart()
        await talk.logged_until("session.idled", after=message["sequence"])
        await check_installed(talk, skill)


async def check_installed(talk: Talk, skill: Json) -> None:
    (done,) = [event["data"] for event in await talk.events(types="tool.completed")]
    assert (done["status"], "Look." in done["result"][0]["text"]) == ("success", True)
    folder = f"/.agents/installed/orders-{skill['version'][:12]}"
    found = await talk.http.get(talk.path(f"/fs{folder}"), params={"recursive": True})
    files = {each["path"]: each for each in found.json()["data"] if not each["is_directory"]}
    assert len(files) == FILES + 1
    assert all(each["is_readonly"] for each in files.values())
    written = [event["data"]["path"] for event in await talk.events(types="file.written")]
    assert sorted(written) == sorted(files)
