"""Every operation of the server's own document, and an organization with one of everything to use it on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx

from tests.journeys.erasing import erased
from tests.journeys.families import spawns
from tests.journeys.people import fresh
from tests.media_files import png
from tests.server import post
from tests.talk import Json, Talk, body_of, call, new_talk, script

ENDLESS = {"stream_inbox", "stream_sse"}
"""Their answers do not end; a refusal does."""

OF_THE_SERVER = {
    "revision",
    "worker_id",
    "capability_id",
    "command",
    "token",
    "callback_id",
    "input_id",
    "tool_name",
}
"""Parameters that name what is the same for everybody, or nothing: only a tool can open a callback."""

SAME = {
    "revision": "1",
    "worker_id": "worker_" + "0" * 32,
    "tool_name": "kept",
    "capability_id": "current_time",
    "command": "get_session_stats",
    "token": "pdr_cb_" + "A" * 43,
    "callback_id": "callback_" + "0" * 32,
    "input_id": "input_" + "0" * 32,
}
"""The values of those parameters."""


class Operation(NamedTuple):
    """One operation of the document."""

    id: str
    method: str
    path: str
    query: Json
    body: Json
    public: bool

    @property
    def names(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)

    def at(self, values: dict[str, str]) -> str:
        return re.sub(r"{(\w+)}", lambda match: values[match[1]], self.path)

    async def send(self, http: httpx.AsyncClient, values: dict[str, str], **more: Any) -> httpx.Response:
        query = {name: values.get(example, example) for name, example in self.query.items()}
        return await http.request(self.method, self.at(values), params=query, **self.body, **more)


REQUIRED = {"name": "nobodys-name", "id": "session_id", "from-example": "notebook", "from": "1"}
"""What stands in the parameters of queries that must be there."""


JSON = "application/json"


def operations_in(document: Json) -> Iterator[Operation]:
    for path, item in document["paths"].items():
        for method, each in item.items():
            body: Json = {}
            kinds = each.get("requestBody", {}).get("content", {})
            if JSON in kinds and "multipart/form-data" in kinds:
                kinds = {JSON: kinds[JSON]}
            for kind, content in kinds.items():
                example = content.get("example", {})
                body = (
                    {"json": example}
                    if kind == JSON
                    else {"content": str(example), "headers": {"content-type": kind}}
                )
            needed = (
                given
                for given in each.get("parameters", ())
                if given.get("in") == "query" and given["required"]
            )
            query = {given["name"]: REQUIRED[given["name"]] for given in needed}
            yield Operation(
                each["operationId"], method.upper(), path, query, body, each.get("security") == []
            )


async def _waiting_item(http: httpx.AsyncClient, mark: str) -> str:
    """The id of an approval that a session of its own waits for."""
    asks = [{"ref": "tool_approval", "config": {"mode": "protective"}}]
    talk = await new_talk(http, title=mark, capabilities=asks)
    await talk.say(script({"tool_calls": [call("write_file", path="/a", content=mark)]}))
    await talk.logged_until("tool.call_requested")
    (item,) = (await http.get("/v1/inbox", params={"session_id": talk.id})).json()["data"]
    return str(item["id"])


async def _family(http: httpx.AsyncClient, mark: str, **fields: Any) -> Json:
    """A session with an inline server, and a sub-agent that has ended."""
    inline = {mark: {"url": "https://mcp.invalid/mcp"}}
    fields |= {"title": mark, "tags": [mark], "capabilities": [{"ref": "subagents"}], "mcpServers": inline}
    session = await post(http, "/v1/sessions", fields)
    begins = {"tool_calls": [spawns(mark, {"text": mark}, mode="foreground")]}
    await post(http, f"/v1/sessions/{session['id']}/messages", body_of(script(begins, {"text": mark})))
    await Talk(http, session["id"]).logged_until("session.idled")
    return session


ASKS = {
    "type": "client_side",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object"},
}


async def _waiting_task(http: httpx.AsyncClient, session_id: str, mark: str) -> str:
    """The id of a task of a session, whose sub-agent waits for a client until the server ends."""
    talk, waits = Talk(http, session_id), {"tool_calls": [call("weather")]}
    spawn = {"mode": "background", "wake_policy": "silent", "instructions": script(waits, ask=mark)}
    await talk.turn(
        {"tool_calls": [{"name": "spawn_agent", "arguments": {"name": mark, **spawn}}]}, {"text": mark}
    )
    created = (await talk.events(types="task.created"))[-1]
    return str(created["data"]["task"]["id"])


async def _budget(http: httpx.AsyncClient, user: str) -> str:
    """The id of one whose limit nobody reaches."""
    amount = {"currency": "tokens", "limit": 10**12}
    budget = await post(http, "/v1/budgets", {"subject_type": "user", "subject_id": user, **amount})
    identifier: str = budget["id"]
    return identifier


async def _skill(http: httpx.AsyncClient, mark: str) -> str:
    text = f"---\nname: {mark}\ndescription: {mark}\n---\n\n{mark}\n"
    return str((await post(http, "/v1/skills", {"skill_md": text}))["id"])


async def _hooks_image_and_memory(http: httpx.AsyncClient, task: str, mark: str) -> dict[str, str]:
    url = {"url": f"https://hooks.invalid/{mark}"}
    webhook = await post(http, "/v1/task-webhooks", url)
    config = await post(http, f"{task}/push-configs", url)
    image = (await http.post("/v1/images", files={"file": (f"{mark}.png", png(), "image/png")})).json()
    memory = await _memory(http, mark)
    erasure = await erased(http, {"session_id": (await new_talk(http)).id})
    memory["erasure_id"] = erasure["id"]
    return {"webhook_id": webhook["id"], "config_id": config["id"], "image_id": image["id"], **memory}


async def _memory(http: httpx.AsyncClient, mark: str) -> dict[str, str]:
    """A memory with a file that has one version, whose content is gone from it."""
    memory = await post(http, "/v1/memories", {"name": mark})
    base = f"/v1/memories/{memory['id']}"
    await post(http, f"{base}/fs/kept.txt", {"content": mark})
    (version,) = (await http.get(f"{base}/versions")).json()["data"]
    return {"memory_id": memory["id"], "memory_version_id": version["id"]}


async def _first_turn(http: httpx.AsyncClient, session_id: str) -> dict[str, str]:
    (began, *_) = await Talk(http, session_id).events(types="turn.started")
    turn = f"{session_id}.{began['data']['turn_id']}"
    return {"workflow_id": turn, "dlq_id": turn}


class Place:
    """A server, and an organization of it with one of everything that a path can name.

    Attributes:
        http: an owner, at work in the organization.
        values: for each parameter of a path, what is there.
        marks: the ids and words that nobody else must see.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.values: dict[str, str] = {}
        self.marks: set[str] = set()

    async def fill(self) -> None:
        http, mark = self.http, fresh("kept")
        me = (await http.get("/v1/users/me")).json()
        organization = (await http.get("/v1/sessions", params={"limit": 1})).request.headers["x-org-id"]
        provider = await post(http, "/v1/providers", {"name": mark, "provider_type": "llmsim"})
        model = await post(
            http, f"/v1/providers/{provider['id']}/models", {"model_id": "simulated", "display_name": mark}
        )
        harness = await post(http, "/v1/harnesses", {"name": mark})
        agent = await post(http, "/v1/agents", {"name": mark, "system_prompt": mark})
        version = await post(http, f"/v1/agents/{agent['id']}/versions", {}, 200)
        session = await _family(http, mark, agent_id=agent["id"], model_id=model["id"], tools=[ASKS])
        base = f"/v1/sessions/{session['id']}"
        answer = (await Talk(http, session["id"]).messages())[-1]
        guest = await post(http, "/v1/agents", {"name": f"guest-{mark}", "system_prompt": mark})
        joined = await post(http, f"{base}/participants", {"kind": "agent", "agent_id": guest["id"]})
        await http.delete(f"{base}/participants/{joined['id']}")
        item = await _waiting_item(http, mark)
        schedule = await post(http, f"{base}/schedules", {"message": mark, "cron": "0 9 * * *"})
        database = "kept_" + mark[-8:]
        await post(http, f"{base}/databases", {"name": database})
        await post(http, f"{base}/fs/kept.txt", {"content": mark})
        await http.put(f"{base}/storage/secrets", json={"secrets": {"KEPT": mark}})
        server = await post(http, "/v1/mcp-servers", {"name": mark, "url": "https://mcp.invalid/mcp"})
        task = await _waiting_task(http, session["id"], mark)
        invited = await post(http, "/v1/invitations", {"email": f"{mark}@example.com"})
        token = (await http.get("/v1/users/me/tokens")).json()["data"][-1]
        self.values = {
            **SAME,
            "org": organization,
            "user_id": me["id"],
            "token_id": token["id"],
            "invitation_id": invited["id"],
            "provider_id": provider["id"],
            "harness_id": harness["id"],
            **dict.fromkeys(("agent_id", "entity_ref"), agent["id"]),
            "version_id": version["id"],
            **dict.fromkeys(("from_version_id", "to_version_id"), version["id"]),
            "session_id": session["id"],
            "message_id": answer["id"],
            "schedule_id": schedule["id"],
            "name": database,
            "server_id": server["id"],
            "server_name": mark,
            "skill_id": await _skill(http, mark),
            "workspace_id": session["workspace_id"],
            "path": "kept.txt",
            "item_id": item,
            "participant_id": joined["id"],
            "guest": guest["id"],
            "provider": server["id"],
            "task_id": task,
            **dict.fromkeys(("model", "key"), model["id"]),
            **await _first_turn(http, session["id"]),
            "budget_id": await _budget(http, me["id"]),
            **await _hooks_image_and_memory(http, f"{base}/tasks/{task}", mark),
        }
        self.marks = {
            value for name, value in self.values.items() if name not in OF_THE_SERVER and len(value) > 10
        } | {mark}

    def of(self, operation: Operation) -> dict[str, str]:
        """The values for an operation: a parameter called `id` means what its path is about."""
        return {
            **self.values,
            "id": self.values["model" if operation.path.startswith("/v1/models") else "provider_id"],
        }
