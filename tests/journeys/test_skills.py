"""Skills: the registry, the versions that agents pin, and how a model finds and activates one."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any
from zipfile import ZipFile

import httpx
import pytest

from tests.journeys.keyed import add_member, person, with_login
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, call, new_talk, script

ZIP = {"content-type": "application/zip"}


def skill_md(
    name: str, description: str = "Fills in PDF forms.", body: str = "List the fields.", more: str = ""
) -> str:
    return f"---\nname: {name}\ndescription: {description}\n{more}---\n\n{body}\n"


def packed(name: str, body: str = "See references/fields.md.", **files: str | bytes) -> bytes:
    """An archive; the names of further files have `_` for `/`, and `__` for the dot."""
    data = io.BytesIO()
    with ZipFile(data, "w") as archive:
        archive.writestr(f"{name}/SKILL.md", skill_md(name, body=body))
        for path, content in files.items():
            archive.writestr(f"{name}/{path.replace('__', '.').replace('_', '/')}", content)
    return data.getvalue()


async def create(http: httpx.AsyncClient, name: str, status: int = 201, **more: str) -> Json:
    return await post(http, "/v1/skills", {"skill_md": skill_md(name, **more)}, status)


async def upload(http: httpx.AsyncClient, data: bytes, status: int = 201, **params: Any) -> Json:
    answer = await http.post("/v1/skills/upload", content=data, headers=ZIP, params=params)
    assert answer.status_code == status, answer.text
    found: Json = answer.json()
    return found


async def get(http: httpx.AsyncClient, path: str, status: int = 200, **params: Any) -> Any:
    answer = await http.get(path, params=params)
    assert answer.status_code == status, answer.text
    return answer.json()


async def change(http: httpx.AsyncClient, skill: Json, body: Json, status: int = 200) -> Json:
    answer = await http.patch(skill["self_url"], json=body)
    assert answer.status_code == status, answer.text
    found: Json = answer.json()
    return found


def ref(skill: Json, **config: str) -> Json:
    named: Json = {"ref": f"skill:{skill['id']}"}
    return {**named, "config": config} if config else named


async def said(talk: Talk, tool: str, **arguments: Any) -> Json:
    """Let the model call a tool; return the event with its result."""
    events = await talk.turn({"tool_calls": [{"name": tool, "arguments": arguments}]}, {"text": "Done."})
    return next(event["data"] for event in events if event["type"] == "tool.completed")


def text_of(done: Json) -> str:
    assert done["status"] == "success", done
    return str(done["result"][0]["text"])


async def listed(talk: Talk, **arguments: Any) -> Json:
    found: Json = json.loads(text_of(await said(talk, "list_skills", **arguments)))
    return found


async def shares(talk: Talk) -> dict[str, int]:
    """The tokens of the sections of the system prompt, by source."""
    found = await get(talk.http, talk.path("/context-report"))
    parts = (each for each in found["contributions"] if each["section_key"] == "system_prompt")
    return {each["source_id"]: each["tokens"] for each in parts}


async def put(talk: Talk, path: str, content: str) -> None:
    answer = await talk.http.put(talk.path(f"/fs{path}"), json={"content": content})
    if answer.status_code == 404:
        answer = await talk.http.post(talk.path(f"/fs{path}"), json={"content": content})
    assert answer.status_code in (200, 201), answer.text


# --- the registry ---------------------------------------------------------------


async def test_a_skill_is_created_read_listed_and_found(http: httpx.AsyncClient) -> None:
    more = "license: MIT\nallowed-tools: bash\nmetadata:\n  author: Ada\n"
    made = await create(http, "pdf-forms", more=more)
    assert (made["name"], made["source_type"], made["status"]) == ("pdf-forms", "markdown", "active")
    assert (made["license"], made["allowed_tools"], made["metadata"]) == ("MIT", "bash", {"author": "Ada"})
    assert len(made["version"]) == 64
    assert await get(http, made["self_url"]) == made
    await create(http, "tables", description="Reads tables of 100% of the files.")
    names = [each["name"] for each in (await get(http, "/v1/skills"))["data"]]
    assert names == ["pdf-forms", "tables"]
    assert [each["name"] for each in (await get(http, "/v1/skills", search="100%"))["data"]] == ["tables"]
    content = await get(http, f"{made['self_url']}/content")
    assert content == {"skill_md": skill_md("pdf-forms", more=more), "files": []}
    assert (await get(http, "/v1/skills/config")) == {"policies": {"skill.manage": True}}


async def test_an_uploaded_skill_has_all_its_files(http: httpx.AsyncClient) -> None:
    made = await upload(http, packed("pdf-forms", references_fields__md="Name.", data__bin=b"\0\xff"))
    assert made["source_type"] == "archive"
    content = await get(http, f"{made['self_url']}/content")
    assert content["files"] == [
        {"path": "data.bin", "content": "AP8=", "encoding": "base64"},
        {"path": "references/fields.md", "content": "Name."},
    ]


async def test_a_form_uploads_a_skill_too_for_those_who_have_logged_in(server: Server) -> None:
    token = await with_login(server)
    async with person(server, token) as http:
        form = {"file": ("pdf-forms.zip", packed("pdf-forms", a="1"), "application/zip")}
        answer = await http.post("/v1/skills/upload", files=form, data={"note": "mine"})
        assert (answer.status_code, answer.json()["name"]) == (201, "pdf-forms")


async def test_a_repeated_upload_with_the_same_key_makes_one_skill(http: httpx.AsyncClient) -> None:
    headers = {**ZIP, "Idempotency-Key": "once"}
    data = packed("pdf-forms", a="1")
    first, second = [await http.post("/v1/skills/upload", content=data, headers=headers) for _ in range(2)]
    assert first.status_code == 201
    assert first.json() == second.json()
    assert len((await get(http, "/v1/skills"))["data"]) == 1


async def test_a_name_is_taken_until_its_skill_is_deleted_for_good(http: httpx.AsyncClient) -> None:
    made = await create(http, "pdf-forms")
    assert (await create(http, "pdf-forms", 409))["code"] == "skill_name_taken"
    assert (await upload(http, packed("pdf-forms", a="1"), 409))["code"] == "skill_name_taken"
    assert (await http.delete(made["self_url"])).status_code == 204
    assert (await get(http, "/v1/skills"))["data"] == []
    (archived,) = (await get(http, "/v1/skills", include_archived=True))["data"]
    assert (archived["status"], archived["archived_at"] is not None) == ("archived", True)
    assert (await create(http, "pdf-forms", 409))["code"] == "skill_name_taken"
    assert (await http.post(f"{made['self_url']}/delete")).status_code == 204
    await get(http, made["self_url"], 404)
    assert (await create(http, "pdf-forms"))["version"] == made["version"]


async def test_skills_that_are_created_at_once_under_one_name_are_one(http: httpx.AsyncClient) -> None:
    body = {"skill_md": skill_md("pdf-forms")}
    answers = await asyncio.gather(*(http.post("/v1/skills", json=body) for _ in range(5)))
    assert sorted(each.status_code for each in answers) == [201, 409, 409, 409, 409]


async def test_a_changed_text_is_a_new_version_and_earlier_ones_stay_readable(
    http: httpx.AsyncClient,
) -> None:
    made = await upload(http, packed("pdf-forms", notes__md="One."))
    changed = await change(http, made, {"skill_md": skill_md("pdf-forms", "Reads PDF forms.")})
    assert changed["version"] != made["version"]
    assert (changed["description"], changed["source_type"]) == ("Reads PDF forms.", "archive")
    assert changed["updated_at"] > made["updated_at"]
    now = await get(http, f"{made['self_url']}/content")
    before = await get(http, f"{made['self_url']}/content", version=made["version"])
    assert now["files"] == before["files"] == [{"path": "notes.md", "content": "One."}]
    assert ("Reads" in now["skill_md"], "Reads" in before["skill_md"]) == (True, False)
    await get(http, f"{made['self_url']}/content", 404, version="0" * 64)
    replaced = await upload(http, packed("pdf-forms", notes__md="Two."), replace=True)
    assert (replaced["id"], replaced["version"] not in (made["version"], changed["version"])) == (
        made["id"],
        True,
    )
    same = await change(http, made, {})
    assert same == replaced
    versions = (await get(http, f"{made['self_url']}/versions"))["data"]
    assert [each["version"] for each in versions] == [each["version"] for each in (replaced, changed, made)]
    assert versions[2]["size_bytes"] == len(before["skill_md"].encode()) + len("One.")
    await upload(http, packed("pdf-forms", notes__md="One."), replace=True)
    again = (await get(http, f"{made['self_url']}/versions"))["data"]
    assert [each["is_current"] for each in versions + again] == [True, False, False, False, False, True]


async def test_a_bad_change_is_refused_and_changes_nothing(http: httpx.AsyncClient) -> None:
    made, other = await create(http, "pdf-forms"), await create(http, "tables")
    assert (await change(http, made, {"skill_md": "none"}, 422))["code"] == "invalid_skill"
    assert (await change(http, made, {"status": "deleted"}, 400))["field"] == "status"
    await change(http, made, {"status": None}, 400)
    taken = {"skill_md": skill_md("tables"), "status": "disabled"}
    assert (await change(http, made, taken, 409))["code"] == "skill_name_taken"
    assert await get(http, made["self_url"]) == made
    renamed = await change(http, other, {"skill_md": skill_md("sheets")})
    assert (renamed["id"], renamed["name"]) == (other["id"], "sheets")


async def test_what_is_wrong_with_a_text_is_said_before_it_is_stored(http: httpx.AsyncClient) -> None:
    good = await post(
        http, "/v1/skills/validate", {"skill_md": skill_md("pdf-forms", more="model: x\n")}, 200
    )
    assert (good["valid"], good["name"], good["description"]) == (True, "pdf-forms", "Fills in PDF forms.")
    assert good["warnings"] == ["line 4: `model` is not a field of skills: it is ignored"]
    bad = await post(http, "/v1/skills/validate", {"skill_md": "---\nname: PDF\n---\n"}, 200)
    assert not bad["valid"]
    assert any(each.startswith("line 2: `name`") for each in bad["errors"])
    refused = await create(http, "Bad-Name", 422)
    assert (refused["code"], "line 2" in refused["detail"]) == ("invalid_skill", True)


async def test_skills_are_capabilities_of_their_organization_only(server: Server) -> None:
    token = await with_login(server)
    async with person(server, token) as http:
        made = await create(http, "pdf-forms")
        found = await get(http, "/v1/capabilities", search="pdf-forms")
        assert [(each["id"], each["is_skill"]) for each in found["data"]] == [(f"skill:{made['id']}", True)]
        assert (await get(http, f"/v1/capabilities/skill:{made['id']}"))["name"] == "pdf-forms"
        other = await post(http, "/v1/orgs", {"name": "Other"})
        there = {"X-Org-Id": other["id"]}
        for method, path in (
            ("GET", made["self_url"]),
            ("GET", f"{made['self_url']}/content"),
            ("DELETE", made["self_url"]),
            ("POST", f"{made['self_url']}/delete"),
            ("GET", f"/v1/capabilities/skill:{made['id']}"),
        ):
            assert (await http.request(method, path, headers=there)).status_code == 404
        answer = await http.post("/v1/sessions", json={"capabilities": [ref(made)]}, headers=there)
        assert (answer.status_code, answer.json()["code"]) == (400, "unknown_capability")


async def test_usage_counts_the_agents_and_harnesses_that_name_a_skill(http: httpx.AsyncClient) -> None:
    one, two, three = [await create(http, name) for name in ("one", "two", "three")]
    for name in ("a", "b"):
        await post(
            http,
            "/v1/agents",
            {"name": name, "system_prompt": f"skill:{three['id']}", "capabilities": [ref(one)]},
        )
    pins = {"ref": "skills", "config": {"pins": {two["id"]: None}}}
    await post(http, "/v1/harnesses", {"name": "h", "display_name": "H", "capabilities": [ref(one), pins]})
    archived = await post(http, "/v1/agents", {"name": "c", "system_prompt": "", "capabilities": [ref(two)]})
    assert (await http.delete(f"/v1/agents/{archived['id']}")).status_code == 204
    assert await get(http, "/v1/skills/usage") == {
        one["id"]: {"agents": 2, "harnesses": 1},
        two["id"]: {"agents": 0, "harnesses": 1},
        three["id"]: {"agents": 0, "harnesses": 0},
    }


# --- versions that agents pin -----------------------------------------------------


async def test_an_agent_keeps_the_version_that_was_current_when_it_was_saved(api: httpx.AsyncClient) -> None:
    made = await create(api, "pinned-skill", body="The first text.")
    agent = await post(api, "/v1/agents", {"name": "pins", "system_prompt": "", "capabilities": [ref(made)]})
    assert agent["capabilities"] == [ref(made, version=made["version"])]
    floats = await post(
        api,
        "/v1/agents",
        {"name": "floats", "system_prompt": "", "capabilities": [ref(made, version="latest")]},
    )
    talks = [await new_talk(api, agent_id=each["id"]) for each in (agent, floats)]
    changed = await change(api, made, {"skill_md": skill_md("pinned-skill", body="The second text.")})
    texts = [text_of(await said(talk, "activate_skill", name="pinned-skill")) for talk in talks]
    assert ["first" in each for each in texts] == [True, False]
    saved = await api.patch(f"/v1/agents/{agent['id']}", json={"capabilities": [ref(made)]})
    assert saved.json()["capabilities"] == [ref(made, version=changed["version"])]
    assert "second" in text_of(await said(talks[0], "activate_skill", name="pinned-skill"))
    back = [ref(made, version=made["version"])]
    saved = await api.patch(f"/v1/agents/{agent['id']}", json={"capabilities": back, "tags": ["x"]})
    assert saved.json()["capabilities"] == back


async def test_sessions_harnesses_and_maps_of_skills_pin_too(api: httpx.AsyncClient) -> None:
    one, two = await create(api, "map-one"), await create(api, "map-two")
    pins = {"ref": "skills", "config": {"pins": {one["id"]: None, two["id"]: "latest"}}}
    stored = {"ref": "skills", "config": {"pins": {one["id"]: one["version"], two["id"]: "latest"}}}
    harness = await post(api, "/v1/harnesses", {"name": "maps", "display_name": "M", "capabilities": [pins]})
    assert harness["capabilities"] == [stored]
    talk = await new_talk(api, harness_id=harness["id"], capabilities=[ref(two)])
    assert (await talk.read())["capabilities"] == [ref(two, version=two["version"])]
    found = await listed(talk)
    assert [each["name"] for each in found["skills"]] == ["map-one", "map-two"]


async def test_the_skills_of_a_blueprint_are_pinned_too(api: httpx.AsyncClient) -> None:
    made = await create(api, "in-a-blueprint")
    config = {"blueprints": {"writer": {"description": "Writes.", "capabilities": [ref(made)]}}}
    body = {
        "name": "has-blueprints",
        "system_prompt": "",
        "capabilities": [{"ref": "subagents", "config": config}],
    }
    agent = await post(api, "/v1/agents", body)
    blueprint = agent["capabilities"][0]["config"]["blueprints"]["writer"]
    assert blueprint["capabilities"] == [ref(made, version=made["version"])]
    config["blueprints"]["writer"]["capabilities"] = [{"ref": f"skill:skill_{'0' * 32}"}]
    assert (await post(api, "/v1/agents", body, 400))["code"] == "unknown_capability"


@pytest.mark.parametrize(
    "given",
    [
        {"ref": f"skill:skill_{'0' * 32}"},
        {"ref": "skill:pdf-forms"},
        {"ref": "skills", "config": {"pins": {f"skill_{'0' * 32}": None}}},
    ],
)
async def test_a_skill_that_does_not_exist_is_refused(api: httpx.AsyncClient, given: Json) -> None:
    for path, more in (("/v1/sessions", {}), ("/v1/agents", {"name": "no-skill", "system_prompt": ""})):
        refused = await post(api, path, {**more, "capabilities": [given]}, 400)
        assert refused["code"] == "unknown_capability"


async def test_a_version_that_never_was_is_refused(api: httpx.AsyncClient) -> None:
    made = await create(api, "never-was")
    other = await create(api, "never-was-either", body="Another text.")
    for version, status in (("0" * 64, 400), (other["version"], 400), (made["version"], 201)):
        body = {"capabilities": [ref(made, version=version)]}
        await post(api, "/v1/sessions", body, status)


async def test_a_skill_that_is_disabled_archived_or_deleted_is_not_offered_any_more(
    api: httpx.AsyncClient,
) -> None:
    made = await create(api, "comes-and-goes")
    talk = await new_talk(api, harness_name="base", capabilities=[ref(made)])
    for status, there in (("active", 1), ("disabled", 0), ("active", 1), ("archived", 0), ("active", 1)):
        await change(api, made, {"status": status})
        assert (await listed(talk))["total"] == there
    assert (await api.post(f"{made['self_url']}/delete")).status_code == 204
    assert (await listed(talk))["total"] == 0
    done = await said(talk, "activate_skill", name="comes-and-goes")
    assert (done["status"], "there is no skill" in done["error"]) == ("error", True)


# --- in a session -----------------------------------------------------------------


async def test_the_text_is_a_tool_result_and_only_name_and_description_are_in_the_prompt(
    api: httpx.AsyncClient,
) -> None:
    made = await create(api, "long-text", body="word " * 5_000)
    talk = await new_talk(api, harness_name="base", capabilities=[ref(made)])
    await talk.turn({"text": "One."})
    assert 20 < (await shares(talk))["skills"] < 100
    assert text_of(await said(talk, "activate_skill", name="long-text")).count("word") == 5_000
    assert 20 < (await shares(talk))["skills"] < 100


async def test_the_files_of_an_activated_skill_are_read_and_run_in_the_session(
    api: httpx.AsyncClient,
) -> None:
    made = await upload(api, packed("with-files", references_fields__md="Ada", scripts_run__sh="echo ran $1"))
    talk = await new_talk(api, capabilities=[ref(made)])
    assert (await api.get(talk.path("/fs/.agents/installed"))).status_code == 404
    text = text_of(await said(talk, "activate_skill", name="with-files"))
    folder = f"/.agents/installed/with-files-{made['version'][:12]}"
    assert f"- {folder}/references/fields.md" in text
    assert "Ada" in text_of(await said(talk, "read_file", path=f"{folder}/references/fields.md"))
    ran = text_of(await said(talk, "bash", command=f"bash /workspace{folder}/scripts/run.sh well"))
    assert "ran well" in ran
    written = await talk.events(types="file.written")
    assert {each["data"]["path"] for each in written} == {
        f"{folder}/{each}" for each in ("SKILL.md", "references/fields.md", "scripts/run.sh")
    }
    await said(talk, "activate_skill", name="with-files")
    assert len(await talk.events(types="file.written")) == 3
    done = await said(talk, "write_file", path=f"{folder}/SKILL.md", content="Ignore it.")
    assert done["status"] == "error"


async def test_an_activation_lists_the_first_of_many_files_and_how_many_more_there_are(
    api: httpx.AsyncClient,
) -> None:
    files = [{"path": f"/.agents/skills/long/d/{n:03}.md", "content": "x"} for n in range(98)]
    files.append({"path": "/.agents/skills/long/SKILL.md", "content": skill_md("long")})
    files.append({"path": "/.agents/skills/longer/other.md", "content": "x"})
    talk = await new_talk(api, initial_files=files)
    for n in range(98, 105):
        await put(talk, f"/.agents/skills/long/d/{n:03}.md", "x")
    text = text_of(await said(talk, "activate_skill", name="long"))
    assert text.count("- /.agents/skills/long/d/") == 100
    assert "- /.agents/skills/long/d/099.md\n- and 5 more: see list_directory" in text


async def test_a_folder_in_the_files_of_a_session_is_a_skill(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await talk.turn({"text": "One."})
    assert "skills" not in await shares(talk)
    await put(talk, "/.agents/skills/house-style/SKILL.md", skill_md("house-style", body="Write short."))
    await put(talk, "/.agents/skills/house-style/examples/one.md", "Short.")
    text = text_of(await said(talk, "activate_skill", name="house-style"))
    assert "Write short." in text
    assert "- /.agents/skills/house-style/examples/one.md" in text
    assert (await shares(talk))["skills"] > 20
    assert (await listed(talk))["skills"] == [
        {
            "name": "house-style",
            "description": "Fills in PDF forms.",
            "source": "files",
            "folder": "/.agents/skills/house-style",
        }
    ]
    await put(talk, "/.agents/skills/house-style/SKILL.md", skill_md("house-style", body="Write long."))
    assert "Write long." in text_of(await said(talk, "activate_skill", name="house-style"))
    assert (await api.delete(talk.path("/fs/.agents"), params={"recursive": True})).status_code == 200
    await talk.turn({"text": "Two."})
    assert "skills" not in await shares(talk)


@pytest.mark.parametrize(
    ("folder", "text", "error"),
    [
        ("style", "No front matter.", "line 1: the file must begin"),
        ("style", skill_md("other"), "must be the folder's name"),
        ("Style", skill_md("style"), "must be the folder's name"),
        ("style", skill_md("style", body="x" * 60_000), "SKILL.md has"),
    ],
)
async def test_a_folder_that_is_not_a_valid_skill_is_listed_with_what_is_wrong(
    api: httpx.AsyncClient, folder: str, text: str, error: str
) -> None:
    talk = await new_talk(api)
    await put(talk, f"/.agents/skills/{folder}/SKILL.md", text)
    (shown,) = (await listed(talk))["skills"]
    assert error in shown["cannot_be_used"]
    done = await said(talk, "activate_skill", name=folder)
    assert done["status"] == "error"


async def test_a_registered_skill_is_not_replaced_by_a_folder_of_the_same_name(
    api: httpx.AsyncClient,
) -> None:
    made = await create(api, "same-name", body="From the registry.")
    talk = await new_talk(api, capabilities=[ref(made)])
    await put(talk, "/.agents/skills/same-name/SKILL.md", skill_md("same-name", body="From a file."))
    assert [each["source"] for each in (await listed(talk))["skills"]] == ["registry"]
    assert "From the registry." in text_of(await said(talk, "activate_skill", name="same-name"))


async def test_a_skill_for_people_only_is_hidden_from_models(api: httpx.AsyncClient) -> None:
    made = await create(api, "people-only", more="disable-model-invocation: true\n")
    assert made["disable_model_invocation"]
    talk = await new_talk(api, harness_name="base", capabilities=[ref(made)])
    assert (await listed(talk))["total"] == 0
    assert "skills" not in await shares(talk)
    done = await said(talk, "activate_skill", name="people-only")
    assert (done["status"], "for people only" in done["error"]) == ("error", True)


async def test_many_skills_are_listed_in_pages_and_found_by_words(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    for number in range(45):
        path = f"/.agents/skills/number-{number:02}/SKILL.md"
        await put(talk, path, skill_md(f"number-{number:02}", f"Counts to {number}."))
    first = await listed(talk)
    assert (len(first["skills"]), first["total"], first["next_offset"]) == (40, 45, 40)
    rest = await listed(talk, offset=40)
    assert [each["name"] for each in rest["skills"]] == [f"number-{number}" for number in range(40, 45)]
    assert "next_offset" not in rest
    assert [each["name"] for each in (await listed(talk, query="TO 7."))["skills"]] == ["number-07"]


async def test_a_catalogue_of_200_skills_costs_the_prompt_under_4000_tokens(http: httpx.AsyncClient) -> None:
    await use_simulated_model(http)
    words = "Extracts tables and text from the documents of customers and writes a report about them. " * 8
    made = [await create(http, f"skill-for-reports-{number}", description=words) for number in range(200)]
    pins = {"ref": "skills", "config": {"pins": {each["id"]: None for each in made}}}
    talk = await new_talk(http, harness_name="base", capabilities=[pins])
    await talk.turn({"text": "One."})
    assert 2_000 < (await shares(talk))["skills"] < 4_000
    assert (await listed(talk))["total"] == 200


async def test_a_model_needs_approval_to_change_what_skills_say(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, capabilities=[{"ref": "tool_approval"}])
    content = skill_md("own-skill")
    for path in ("/.agents/skills/own-skill/SKILL.md", "/.agents/installed/x/SKILL.md"):
        message = await talk.say(script({"tool_calls": [call("write_file", path=path, content=content)]}))
        events = await talk.logged_until("tool.call_requested", after=message["sequence"])
        (asked,) = events[-1]["data"]["tool_calls"]
        decision = {"tool_call_id": asked["arguments"]["tool_call_id"], "decision": "reject"}
        await post(api, talk.path("/tool-approvals"), {"decisions": [decision]}, 200)
        await talk.logged_until("session.idled", after=message["sequence"])
    assert (await api.get(talk.path("/fs/.agents"))).status_code == 404


async def test_members_may_keep_skills(server: Server) -> None:
    token = await with_login(server)
    async with person(server, token) as admin:
        _, member = await add_member(admin, "ada")
        async with person(server, member) as http:
            made = await create(http, "pdf-forms")
            assert (await http.delete(made["self_url"])).status_code == 204
