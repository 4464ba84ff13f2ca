"""`perdure skills`, and the client's methods about skills."""

from __future__ import annotations

import json
from pathlib import Path

from perdure.client import Client
from tests.command import perdure
from tests.journeys.people import fresh
from tests.server import Server


def folder(tmp_path: Path, name: str, text: str | None = None, **files: str) -> Path:
    place = tmp_path / name
    place.mkdir()
    text = f"---\nname: {name}\ndescription: Knows {name}.\n---\n\nLook.\n" if text is None else text
    (place / "SKILL.md").write_text(text)
    for file, content in files.items():
        (place / file).write_text(content)
    return place


async def test_a_skill_is_checked_before_it_is_added_without_a_server(tmp_path: Path) -> None:
    good = folder(tmp_path, "good-skill", notes="n")
    found = await perdure("skills", "validate", str(good))
    assert (found.status, found.out) == (0, "ok: good-skill, 1 further file\n")
    assert (await perdure("skills", "validate", str(good / "SKILL.md"))).status == 0
    bad = folder(tmp_path, "bad-skill", "---\nname: bad-skill\nmodel: x\n---\n")
    found = await perdure("skills", "validate", str(bad))
    assert found.status == 1
    assert found.out.splitlines() == [
        "error: SKILL.md, line 1: `description` is missing",
        "warning: SKILL.md, line 3: `model` is not a field of skills: it is ignored",
        "warning: SKILL.md, line 5: there are no instructions below the front matter",
    ]
    other = (good.rename(tmp_path / "other-name")).as_posix()
    found = await perdure("skills", "validate", other)
    assert (found.status, "the folder is called 'other-name'" in found.out) == (1, True)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "there is no SKILL.md" in (await perdure("skills", "validate", str(empty))).out


async def test_a_link_in_a_folder_is_refused(tmp_path: Path) -> None:
    place = folder(tmp_path, "with-link")
    (place / "passwords").symlink_to("/etc/passwd")
    found = await perdure("skills", "validate", str(place))
    assert (found.status, "passwords is a link" in found.out) == (1, True)


async def test_the_command_adds_replaces_and_lists_skills(shared_server: Server, tmp_path: Path) -> None:
    url, name = shared_server.url, fresh("skill")
    place = folder(tmp_path, name, notes="one")
    added = await perdure("skills", "add", str(place), url=url)
    assert added.status == 0, added.err
    async with Client(url) as client:
        (skill,) = await client.list_skills(search=name)
        assert f'"skill:{skill.id}"' in added.out
        again = await perdure("skills", "add", str(place), url=url)
        assert (again.status, "is called" in again.err, "--replace" in again.err) == (1, True, True)
        same = await perdure("skills", "add", str(place), "--replace", url=url)
        assert same.out.startswith(f"unchanged: {skill.id} ")
        (place / "notes").write_text("two")
        replaced = await perdure("skills", "add", str(place), "--replace", "--json", url=url)
        new = json.loads(replaced.out)
        assert (new["id"], new["version"] != skill.version) == (skill.id, True)
        listed = (await perdure("skills", "list", url=url)).out.splitlines()
        assert [skill.id, "active", name, new["version"][:12], f"Knows {name}."] in [
            line.split("\t") for line in listed
        ]
        versions = (await perdure("skills", "versions", name, url=url)).out.splitlines()
        assert [line.split("\t")[:3] for line in versions[1:]] == [
            [new["version"], "current", "2"],
            [skill.version, "", "2"],
        ]
        old = await perdure("skills", "show", name, "--version", skill.version[:10], url=url)
        assert old.out == f"{(place / 'SKILL.md').read_text()}further file: notes\n"
        unknown = await perdure("skills", "show", name, "--version", "zz", url=url)
        assert (unknown.status, "no version begins with 'zz'" in unknown.err) == (1, True)
        content = await client.get_skill_content(skill.id, skill.version)
        assert [(each.path, each.content) for each in content.files] == [("notes", "one")]
        assert (await perdure("skills", "archive", name, url=url)).out == f"archived {name}\n"
        assert skill.id not in (await perdure("skills", "list", url=url)).out
        assert skill.id in (await perdure("skills", "list", "--archived", url=url)).out
        (place / "notes").write_text("three")
        back = await perdure("skills", "add", str(place), "--replace", url=url)
        assert back.out.startswith(f"changed {skill.id} ")
        assert "--yes" in (await perdure("skills", "delete", name, url=url)).err
        assert (await perdure("skills", "delete", name, "--yes", url=url)).out == f"deleted {name}\n"
        gone = await perdure("skills", "versions", name, url=url)
        assert (gone.status, f"no skill is called {name!r}" in gone.err) == (1, True)


async def test_the_client_has_every_operation(shared_server: Server) -> None:
    async with Client(shared_server.url) as client:
        name = fresh("skill")
        text = f"---\nname: {name}\ndescription: Knows.\n---\n\nLook.\n"
        assert (await client.validate_skill(text)).valid
        skill = await client.create_skill(text)
        assert await client.get_skill(skill.id) == skill
        assert (await client.update_skill(skill.id, status="disabled")).status == "disabled"
        usage = (await client.list_skills_usage())[skill.id]
        assert (usage.agents, usage.harnesses) == (0, 0)
        assert (await client.get_skill_config()).policies == {"skill.manage": True}
        await client.destroy_skill(skill.id)
        assert await client.list_skills(search=name, include_archived=True) == ()
