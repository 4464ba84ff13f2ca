"""What a server keeps besides turns: summaries, files, secrets, SQL databases, shells, agents,
organizations, tokens."""

from __future__ import annotations

import base64
from typing import Any

import httpx

from tests.server import post
from tests.talk import Json
from tests.upgrade.place import Place
from tests.upgrade.state import State, call, holds, last_text, of_kind, outcomes, results, text_at, value

LONG = "a long story " * 90
"""Some 300 tokens."""
MEMORY = "The user keeps bees and tells long stories."
BYTES = bytes(range(256))
SECRET = "zebra-0815-quagga"


def patient(fields: Json, key: str) -> dict[str, Any]:
    """Headers of a request that may be sent again."""
    return {"json": fields, "headers": {"Idempotency-Key": key}}


async def compacting(old: Place, name: str, summary: Json) -> None:
    """A session with three long stories, whose next one does not fit; `summary` is what the model then
    says."""
    wish = old.script(name, summary, ask="Be brief.")
    await old.session(name, capabilities=[{"ref": "context_compaction", "config": {"instructions": wish}}])
    for number in range(3):
        await old.turn(name, {"text": f"Noted {number}."}, ask=f"Story {number}: {LONG}")


class Compacted(State):
    """The summary goes on standing for what it sums up, and `query_history` finds what the model is not
    shown."""

    async def reach(self, old: Place) -> Json:
        await compacting(old, "compacted", {"text": MEMORY})
        events = await old.turn("compacted", {"text": "Noted 3."}, ask=f"Story 3: {LONG}")
        assert of_kind(events, "context.compacted")[0]["strategy_used"] == "summary"
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        search = call("query_history", "search", query="noted 0")
        events = await new.turn("compacted", {"calls": [search]}, {"text": "Found."}, ask="Look it up.")
        first = new.model.calls("compacted")[0]
        assert MEMORY in first.messages[0]
        assert not any("Story 0" in text for text in first.messages)
        found = results(events)[0]["messages"]
        assert [each["text"] for each in found if each["role"] == "agent"] == ["Noted 0."]


class KilledWhileCompacting(State):
    """The model had been asked for a summary: the history is summed up after all, and the turn is
    completed."""

    phase = "held"

    async def reach(self, old: Place) -> Json:
        name = "killed while compacting"
        await compacting(old, name, {"hold": "silent", "text": MEMORY})
        async with old.talk(name).follow() as stream:
            await old.say(name, {"text": "Noted 3."}, ask=f"Story 3: {LONG}")
            await stream.until("context.compacting")
        await old.model.until_asked(f"{name}/old1")
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until("killed while compacting", "session.idled")
        assert of_kind(events, "context.compacted")[0]["summary"] == MEMORY
        assert last_text(events) == "Noted 3."
        assert MEMORY in new.model.calls("killed while compacting")[-1].messages[0]


class LoadedTools(State):
    """A tool that was found with `tool_search` is still offered: it is called without being loaded again."""

    since = "0.3.0"

    async def reach(self, old: Place) -> Json:
        await old.session("loaded tools", capabilities=[{"ref": "hiding"}])
        search = call("tool_search", "search", query="softly")
        events = await old.turn("loaded tools", {"calls": [search]}, {"text": "Found."})
        assert of_kind(events, "tools.loaded")[0]["tool_names"] == ["whisper"]
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.turn("loaded tools", {"calls": [call("whisper", "whisper")]}, {"text": "Psst."})
        assert outcomes(events)["whisper"] == "success"
        assert not of_kind(events, "tools.loaded")


class Files(State):
    """Text, bytes, folders and read-only files are as they were, with their hashes; they can be read and
    written."""

    async def reach(self, old: Place) -> Json:
        files = [
            {"path": "/docs/a.txt", "content": "é😀\n"},
            {"path": "/fixed", "content": "fixed", "is_readonly": True},
        ]
        talk = await old.session("files", initial_files=files)
        raw = {"content": base64.b64encode(BYTES).decode(), "encoding": "base64"}
        await post(talk.http, talk.path("/fs/raw.bin"), raw)
        await post(talk.http, talk.path("/fs/empty"), {"is_directory": True})
        await old.turn(
            "files",
            {"calls": [call("write_file", "write", path="/b", content="by the model")]},
            {"text": "Ok."},
        )
        return {"tree": (await talk.http.get(talk.path("/fs"), params={"recursive": True})).json()}

    async def end(self, new: Place, facts: Json) -> None:
        talk = new.talk("files")
        for entry in facts["tree"]["data"]:
            # Up to 0.1.0, these two ids were bare UUIDs.
            for name, prefix in (("id", "file"), ("session_id", "session")):
                entry[name] = f"{prefix}_{entry[name].removeprefix(f'{prefix}_').replace('-', '')}"
        assert holds(
            (await talk.http.get(talk.path("/fs"), params={"recursive": True})).json(), facts["tree"]
        )
        assert await text_at(talk, "/docs/a.txt") == "é😀\n"
        assert (await talk.http.get(talk.path("/fs/_/download/raw.bin"))).content == BYTES
        calls = [
            call("read_file", "read", path="/b"), call("write_file", "refused", path="/fixed", content="x"),
            call("write_file", "anew", path="/b", content="anew"),
        ]  # fmt: skip
        events = await new.turn("files", {"calls": calls}, {"text": "Done."})
        assert outcomes(events) == {"read": "success", "refused": "error", "anew": "success"}
        assert (await text_at(talk, "/b"), await text_at(talk, "/fixed")) == ("anew", "fixed")


class Workspaces(State):
    """Two sessions share a workspace as before; an archived one can be read and not written."""

    async def reach(self, old: Place) -> Json:
        space = (await post(old.http, "/v1/workspaces", {"name": "shared"}))["id"]
        for name in ("shares, writing", "shares, reading"):
            await old.session(name, workspace_id=space)
        write = call("write_file", "write", path="/plan", content="Step one.")
        await old.turn("shares, writing", {"calls": [write]}, {"text": "Planned."})
        closed = (await post(old.http, "/v1/workspaces", {"name": "closed"}))["id"]
        await post(old.http, f"/v1/workspaces/{closed}/fs/a", {"content": "kept"})
        assert (await old.http.delete(f"/v1/workspaces/{closed}")).status_code == 204
        return {"shared": space, "closed": closed}

    async def end(self, new: Place, facts: Json) -> None:
        write = call("write_file", "again", path="/plan", content="Step two.")
        await new.turn("shares, writing", {"calls": [write]}, {"text": "Planned."})
        events = await new.turn(
            "shares, reading", {"calls": [call("read_file", "read", path="/plan")]}, {"text": "Read."}
        )
        assert results(events)[0]["content"] == "Step two."
        closed = f"/v1/workspaces/{facts['closed']}/fs"
        assert (await new.http.get(f"{closed}/a")).json()["content"] == "kept"
        refused = await post(new.http, f"{closed}/b", {"content": "x"}, 409)
        assert refused["code"] == "workspace_archived"


class Secrets(State):
    """Secrets can still be opened: what they hold is blanked wherever it appears, and key-values are as
    they were."""

    async def reach(self, old: Place) -> Json:
        talk = await old.session("secrets")
        assert (
            await talk.http.put(talk.path("/storage/secrets"), json={"secrets": {"TOKEN": SECRET}})
        ).is_success
        keep = call("kv_store", "keep", operation="set", key="k", value="é😀")
        await old.turn("secrets", {"calls": [keep]}, {"text": "Kept."})
        keys = await value(talk, "/storage/keys")
        return {"keys": keys, "secrets": await value(talk, "/storage/secrets")}

    async def end(self, new: Place, facts: Json) -> None:
        talk = new.talk("secrets")
        assert holds(await value(talk, "/storage/keys"), facts["keys"])
        assert holds(await value(talk, "/storage/secrets"), facts["secrets"])
        events = await new.turn("secrets", {"text": f"So it is {SECRET}."}, ask=f"Is it {SECRET}?")
        assert last_text(events) == "So it is [secret TOKEN]."
        assert new.model.calls("secrets")[0].messages[-1].startswith("Is it [secret TOKEN]?")


class SqlDatabases(State):
    """SQL databases have their rows, and take more."""

    async def reach(self, old: Place) -> Json:
        talk = await old.session("sql databases", capabilities=[{"ref": "session_sql_database"}])
        statements = (
            "create table orders (id integer primary key, item text)",
            "insert into orders (item) values ('tea')",
        )
        calls = [call("sql_execute", f"sql{number}", sql=sql) for number, sql in enumerate(statements)]
        await old.turn("sql databases", {"calls": calls}, {"text": "Made."})
        await post(talk.http, talk.path("/databases"), {"name": "empty"})
        return {"schema": await value(talk, "/databases/main/schema")}

    async def end(self, new: Place, facts: Json) -> None:
        talk = new.talk("sql databases")
        assert [each["name"] for each in (await value(talk, "/databases"))["data"]] == ["empty", "main"]
        assert holds(await value(talk, "/databases/main/schema"), facts["schema"])
        insert = call("sql_execute", "insert", sql="insert into orders (item) values ('milk')")
        query = call("sql_query", "query", sql="select * from orders order by id")
        events = await new.turn("sql databases", {"calls": [insert, query]}, {"text": "Two."})
        assert results(events)[1]["rows"] == [[1, "tea"], [2, "milk"]]


class Shells(State):
    """A shell remembers its folder, variables and functions."""

    async def reach(self, old: Place) -> Json:
        await old.session("shell")
        command = "mkdir sub; cd sub; X=seven; greet() { echo hello $1; }"
        await old.turn("shell", {"calls": [call("bash", "prepare", command=command)]}, {"text": "Ready."})
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.turn(
            "shell", {"calls": [call("bash", "use", command="pwd; greet $X")]}, {"text": "So."}
        )
        assert results(events)[0]["stdout"] == "/workspace/sub\nhello seven\n"


class Agents(State):
    """A session of a version keeps that version's prompt, one without follows its agent, an archived
    agent's says so; harness and versions are as they were."""

    async def reach(self, old: Place) -> Json:
        harness = await post(old.http, "/v1/harnesses", {"name": "house", "system_prompt": "House rules."})
        fields = {"name": "desk", "system_prompt": "Prompt one.", "harness_id": harness["id"]}
        agent = await post(old.http, "/v1/agents", fields)
        path = f"/v1/agents/{agent['id']}"
        await old.session("follows its agent", agent_id=agent["id"])
        (first,) = (await old.http.get(f"{path}/versions")).json()
        assert (await old.http.post(f"{path}/versions/default", json={"version_id": first["id"]})).is_success
        await old.session("runs a version", agent_id=agent["id"])
        assert (await old.http.patch(path, json={"system_prompt": "Prompt two."})).is_success
        gone = await post(old.http, "/v1/agents", {"name": "leaver", "system_prompt": "I leave."})
        await old.session("of an archived agent", agent_id=gone["id"])
        assert (await old.http.delete(f"/v1/agents/{gone['id']}")).status_code == 204
        old.sessions["of an archived agent"].over = "agent_archived"
        return {"agent": agent["id"], "versions": (await old.http.get(f"{path}/versions")).json()}

    async def end(self, new: Place, facts: Json) -> None:
        found = (await new.http.get(f"/v1/agents/{facts['agent']}/versions")).json()
        assert holds(found, facts["versions"])
        for name, prompt in (("follows its agent", "Prompt two."), ("runs a version", "Prompt one.")):
            await new.turn(name, {"text": "Yes."})
            (asked,) = new.model.calls(name)
            assert prompt in asked.prompt, name
            assert "House rules." in asked.prompt


class Pinned(State):
    """A pin is still there, and can be taken away."""

    async def reach(self, old: Place) -> Json:
        talk = await old.session("pinned")
        assert (await talk.http.put(talk.path("/pin"))).status_code == 204
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        talk = new.talk("pinned")
        pinned = (await new.http.get("/v1/sessions", params={"pinned": True})).json()["data"]
        assert [each["id"] for each in pinned] == [talk.id]
        assert (await talk.http.delete(talk.path("/pin"))).status_code == 204
        assert not (await talk.read())["is_pinned"]


class OtherOrganization(State):
    """Another organization's session works with that organization's own provider and key, and is unseen
    from the first."""

    async def reach(self, old: Place) -> Json:
        org = (await post(old.http, "/v1/orgs", {"name": "Elsewhere"}))["id"]
        http = old.client(org)
        fields = {
            "name": "Theirs",
            "provider_type": "openai_completions",
            "base_url": old.model.url,
            "api_key": "their-key",
        }
        provider = await post(http, "/v1/providers", fields)
        await post(
            http, f"/v1/providers/{provider['id']}/models", {"model_id": "played", "display_name": "Played"}
        )
        await old.session("elsewhere", organization=org)
        await old.turn("elsewhere", {"text": "Here."})
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        await new.turn("elsewhere", {"text": "Still here."})
        assert {each.key for each in new.model.calls("elsewhere")} == {"their-key"}
        assert (await new.http.get(new.talk("elsewhere").path())).status_code == 404


class TokensAndMembers(State):
    """Tokens open what they opened, revoked ones nothing; who has none is turned away; roles are as they
    were."""

    async def reach(self, old: Place) -> Json:
        fields = {"email": "mo@example.com", "name": "Mo", "role": "member"}
        user = await post(old.http, "/v1/users", fields)
        theirs = await post(old.http, f"/v1/users/{user['id']}/tokens", {"name": "theirs"})
        revoked = await post(old.http, "/v1/users/me/tokens", {"name": "revoked"})
        assert (await old.http.delete(f"/v1/users/me/tokens/{revoked['id']}")).status_code == 204
        return {"user": user["id"], "theirs": theirs["token"], "revoked": revoked["token"]}

    async def end(self, new: Place, facts: Json) -> None:
        async with httpx.AsyncClient(base_url=new.http.base_url, timeout=30) as http:
            assert (await http.get("/v1/sessions")).status_code == 401
            refused = await http.get("/v1/sessions", headers={"authorization": f"Bearer {facts['revoked']}"})
            assert refused.status_code == 401
            http.headers["authorization"] = f"Bearer {facts['theirs']}"
            assert (await http.get("/v1/users/me")).json()["id"] == facts["user"]
            assert (await http.get("/v1/sessions")).status_code == 200
            made = await http.post("/v1/providers", json={"name": "x", "provider_type": "llmsim"})
            assert made.status_code == 403


class IdempotencyKeys(State):
    """A key's answer is kept for a day: the same request comes to the same session until then, and to a
    new one later."""

    async def reach(self, old: Place) -> Json:
        answer = await old.http.post("/v1/sessions", **patient({"title": "made once"}, "once"))
        old.adopt("made once", answer.json()["id"])
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        answer = await new.http.post("/v1/sessions", **patient({"title": "made once"}, "once"))
        assert answer.status_code == 201
        again = answer.json()["id"] == new.talk("made once").id
        assert (answer.headers.get("idempotency-replayed") == "true") == again


KEPT: tuple[State, ...] = (
    Compacted(),
    KilledWhileCompacting(),
    LoadedTools(),
    Files(),
    Workspaces(),
    Secrets(),
    SqlDatabases(),
    Shells(),
    Agents(),
    Pinned(),
    OtherOrganization(),
    TokensAndMembers(),
    IdempotencyKeys(),
)
