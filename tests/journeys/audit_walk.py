"""Every operation that the audit log has, each carried out once."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Sequence
from typing import Any

import httpx

from perdure.domain.ids import new_id
from tests.browser import Browser
from tests.conformance.drivers.vendor import open_vendor
from tests.journeys.keyed import add_member, person
from tests.journeys.people import fresh
from tests.mcp_stub import McpStub, tool
from tests.media_files import png
from tests.oauth_server import OAuthServer
from tests.server import Server, post
from tests.talk import Json
from tests.vendors import listing, vendor_provider

SECRET = "s3cret-of-the-walk"
"""What is in every secret that the walk stores: no entry may have it."""
CODED = base64.b64encode(f"{SECRET}, {SECRET}".encode()).decode()


class Walk:
    """Carries operations out, and checks after each that it left exactly one entry.

    Attributes:
        http: an owner in the organization `org`.
        done: the operations that were carried out.
    """

    def __init__(self, http: httpx.AsyncClient, org: str) -> None:
        self.http, self.org = http, org
        self.done: set[str] = set()
        self.entries: list[Json] = []

    async def do(
        self,
        operation: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        action: str,
        org: str | None = None,
        http: httpx.AsyncClient | None = None,
        **more: Any,
    ) -> Any:
        """Carry an operation out and check its entry; returns what it answers.

        Args:
            action: the action of the entry.
            org: the organization that gets the entry; None for the walk's.
            http: who does it; None for the owner.
        """
        request_id = fresh("walk")
        headers = {"x-request-id": request_id, "perdure-reason": f"Grund für {operation}".encode()}
        headers |= {"x-forwarded-for": "203.0.113.9" * 40, **more.pop("headers", {})}
        if body is not None:
            more["json"] = body
        answer = await (http or self.http).request(method, path, headers=headers, **more)
        assert answer.status_code < 300, (operation, answer.text)
        await self.check(operation, action, request_id, org)
        return answer.json() if answer.content else None

    async def check(self, operation: str, action: str, request_id: str, org: str | None = None) -> None:
        found = await self.of_request(request_id, org)
        assert [(each["operation"], each["action"]) for each in found] == [(operation, action)], (
            operation,
            found,
        )
        (entry,) = found
        assert entry["outcome"] == "done"
        assert entry["entity"]["id"], entry
        assert entry.get("before") or entry.get("after"), entry
        assert entry.get("before") != entry.get("after"), entry
        assert SECRET not in str(entry), entry
        assert CODED not in str(entry), entry
        if operation != "finish_sign_in":
            assert entry["actor"]["token_name"], entry
            assert entry["reason"] == f"Grund für {operation}"
            assert entry["address"] == "127.0.0.1"
            assert entry["forwarded_for"] == ("203.0.113.9" * 40)[:300]
        self.done.add(operation)
        self.entries.append(entry)

    async def of_request(self, request_id: str, org: str | None = None) -> Sequence[Json]:
        org = org or self.org
        answer = await self.http.get(f"/v1/orgs/{org}/audit-logs", params={"limit": 1000})
        assert answer.status_code == 200, answer.text
        return [each for each in answer.json()["data"] if each.get("request_id") == request_id]


async def walk_sessions(walk: Walk) -> None:
    do, asked = walk.do, {"title": "A walk", "metadata": {"by": "walk"}}
    session = await do("create_session", "POST", "/v1/sessions", asked, action="session.created")
    base = f"/v1/sessions/{session['id']}"
    await do("fork_session", "POST", f"{base}/fork", {}, action="session.forked")
    await do("update_session", "PATCH", base, {"title": "Another"}, action="session.updated")
    await do("archive_session", "PUT", f"{base}/archive", action="session.archived")
    await do("unarchive_session", "DELETE", f"{base}/archive", action="session.unarchived")
    secrets = {"secrets": {"KEY": SECRET}}
    await do("batch_set_secrets", "PUT", f"{base}/storage/secrets", secrets, action="secret.created")
    plan = {"message": "Go.", "cron": "0 9 * * *"}
    schedule = await do(
        "create_session_schedule", "POST", f"{base}/schedules", plan, action="schedule.created"
    )
    at = f"{base}/schedules/{schedule['id']}"
    await do("update_session_schedule", "PATCH", at, {"enabled": False}, action="schedule.updated")
    await do("delete_session_schedule", "DELETE", at, action="schedule.deleted")
    await do("create_database", "POST", f"{base}/databases", {"name": "shop"}, action="database.created")
    await do("delete_database", "DELETE", f"{base}/databases/shop", action="database.deleted")
    await _files(walk, f"{base}/fs", "session_")
    image = {"files": {"file": ("walk.png", png(), "image/png")}}
    uploaded = await do("upload_image", "POST", "/v1/images", action="image.uploaded", **image)
    await do("delete_image", "DELETE", f"/v1/images/{uploaded['id']}", action="image.deleted")
    await do("delete_session", "DELETE", base, action="session.deleted")


async def _files(walk: Walk, base: str, prefix: str = "") -> None:
    do = walk.do
    text = {"content": "One."}
    await do(f"{prefix}create_path", "POST", f"{base}/a/one.txt", text, action="file.created")
    await do(f"{prefix}update_path", "PUT", f"{base}/a/one.txt", {"content": "Two."}, action="file.updated")
    pair = {"src_path": "/a/one.txt", "dst_path": "/b/two.txt"}
    await do(f"{prefix}copy_file", "POST", f"{base}/_/copy", pair, action="file.copied")
    pair = {"src_path": "/b/two.txt", "dst_path": "/c/three.txt"}
    await do(f"{prefix}move_file", "POST", f"{base}/_/move", pair, action="file.moved")
    moved = walk.entries[-1]
    assert (moved["before"]["path"], moved["after"]["path"]) == ("/b/two.txt", "/c/three.txt")
    more = {"params": {"recursive": "true"}}
    await do(f"{prefix}delete_path", "DELETE", f"{base}/a", action="file.deleted", **more)


async def walk_agents(walk: Walk) -> None:
    do, name = walk.do, fresh("walk")
    inline = {"crm": {"url": "https://crm.invalid/mcp", "headers": {"X-Key": "{{secret:KEY}}"}}}
    body = {"name": name, "system_prompt": "Be brief.", "mcpServers": inline}
    agent = await do("create_agent", "POST", "/v1/agents", body, action="agent.created")
    base = f"/v1/agents/{agent['id']}"
    await do("update_agent", "PATCH", base, {"description": "Walks."}, action="agent.updated")
    other = {"name": fresh("walk"), "system_prompt": "Be long."}
    await do("upsert_agent", "PUT", f"/v1/agents/{new_id('agent')}", other, action="agent.created")
    markdown = {"content": f"---\nname: {fresh('walk')}\n---\nBe."}
    kind = {"headers": {"content-type": "text/markdown"}}
    await do("import_agent", "POST", "/v1/agents/import", action="agent.created", **markdown, **kind)
    await do("copy_agent", "POST", f"{base}/copy", action="agent.created")
    version = await do("create_agent_version", "POST", f"{base}/versions", {}, action="agent_version.created")
    chosen = {"version_id": version["id"]}
    await do("set_default_agent_version", "POST", f"{base}/versions/default", chosen, action="agent.updated")
    await walk.http.patch(base, json={"description": "Runs."})
    at = f"{base}/versions/{version['id']}"
    await do("rollback_agent_version", "POST", f"{at}/rollback", {}, action="agent.rolled_back")
    await do("fork_agent_version", "POST", f"{at}/fork", {"name": fresh("walk")}, action="agent.forked")
    first = {"revision": 1}
    restored = f"/v1/history/{agent['id']}/restore"
    await do("restore_entity_revision", "POST", restored, first, action="agent.restored")
    await do("delete_agent", "DELETE", base, action="agent.archived")
    harness = await do(
        "create_harness", "POST", "/v1/harnesses", {"name": fresh("walk")}, action="harness.created"
    )
    base = f"/v1/harnesses/{harness['id']}"
    await do("update_harness", "PATCH", base, {"description": "Walks."}, action="harness.updated")
    await do("copy_harness", "POST", f"{base}/copy", action="harness.created")
    example = {"params": {"from-example": "notebook"}}
    await do("import_harness", "POST", "/v1/harnesses/import", action="harness.created", **example)
    await do("delete_harness", "DELETE", base, action="harness.archived")


async def walk_people(walk: Walk, owner: str) -> None:
    do, org = walk.do, f"/v1/orgs/{walk.org}"
    made = {"name": "Elsewhere"}
    headers = {"x-request-id": fresh("walk"), "perdure-reason": "Grund für create_organization".encode()}
    headers["x-forwarded-for"] = "203.0.113.9" * 40
    answer = await walk.http.post("/v1/orgs", json=made, headers=headers)
    async with httpx.AsyncClient(base_url=walk.http.base_url, headers=walk.http.headers) as there:
        there.headers["x-org-id"] = answer.json()["id"]
        elsewhere = Walk(there, answer.json()["id"])
        await elsewhere.check("create_organization", "organization.created", headers["x-request-id"])
        walk.done |= elsewhere.done
        await add_member(there, "zoe", "owner")
    await do("update_organization", "PATCH", org, {"name": "Walkers"}, action="organization.updated")
    await do("complete_org_onboarding", "POST", f"{org}/onboarding/complete", action="organization.updated")
    limits = {"organization": {"active_turns": 900}}
    await do("update_limits", "PATCH", f"{org}/limits", limits, action="limits.updated")
    await do("update_retention", "PATCH", f"{org}/retention", {"images": 365}, action="retention.updated")
    held = await post(walk.http, "/v1/sessions", {"title": "Held"})
    hold = f"/v1/sessions/{held['id']}/hold"
    await do("hold_session", "PUT", hold, action="session.held")
    await do("release_session", "DELETE", hold, action="session.released")
    erased = {"session_id": held["id"]}
    await do("create_erasure", "POST", "/v1/erasures", erased, action="erasure.begun")
    invited = {"email": "walker@example.com"}
    invitation = await do(
        "create_invitation", "POST", "/v1/invitations", invited, action="invitation.created"
    )
    at = f"/v1/invitations/{invitation['id']}"
    await do("withdraw_invitation", "DELETE", at, action="invitation.withdrawn")
    user = await do(
        "add_user",
        "POST",
        "/v1/users",
        {"email": "eve@example.com", "name": "Eve", "role": "member"},
        action="member.added",
    )
    at = f"/v1/users/{user['id']}"
    named = {"name": "build"}
    theirs = await do("create_user_token", "POST", f"{at}/tokens", named, action="token.created")
    own = await do("create_token", "POST", "/v1/users/me/tokens", named, action="token.created")
    for token in (theirs, own):
        assert token["token"] not in str(walk.entries)
    await do("revoke_token", "DELETE", f"/v1/users/me/tokens/{own['id']}", action="token.revoked")
    await do("update_user", "PATCH", at, {"role": "admin"}, action="member.updated")
    await do("remove_user", "DELETE", at, action="member.removed")
    await do("update_profile", "PATCH", "/v1/users/me", {"name": f"{owner}!"}, action="user.updated")


async def walk_out(walk: Walk, server: Server, token: str) -> None:
    """Join another organization, and delete the walk's account in the end.

    Args:
        token: the walk's.
    """
    me = (await walk.http.get("/v1/users/me")).json()["id"]
    second = (await post(walk.http, "/v1/orgs", {"name": "Second"}))["id"]
    async with person(server, token, second) as founder:
        _, bobs = await add_member(founder, "bob", "owner")
        assert (await founder.delete(f"/v1/users/{me}")).status_code == 204
        async with person(server, bobs, second) as bob:
            invitation = await post(bob, "/v1/invitations", {"role": "admin"})
        there = Walk(founder, second)
        body, at = {"code": invitation["code"]}, f"/v1/invitations/{invitation['id']}/accept"
        await there.do("accept_invitation", "POST", at, body, action="member.joined", http=walk.http)
    _, alices = await add_member(walk.http, "alice", "owner")
    async with person(server, alices, walk.org) as alice:
        here = Walk(alice, walk.org)
        await here.do("delete_account", "DELETE", "/v1/users/me", action="member.removed", http=walk.http)
    walk.done |= there.done | here.done


async def walk_models(walk: Walk) -> None:
    do = walk.do
    body = {"name": fresh("walk"), "provider_type": "llmsim"}
    provider = await do("create_provider", "POST", "/v1/providers", body, action="provider.created")
    base = f"/v1/providers/{provider['id']}"
    keyed = {"api_key": SECRET}
    await do("update_provider", "PATCH", base, keyed, action="provider.updated")
    async with open_vendor() as vendor:
        synced = await vendor_provider(walk.http, vendor)
        vendor.will(listing("alpha-1"))
        at = f"/v1/providers/{synced['id']}/sync-models"
        await do("sync_models", "POST", at, action="provider.synced")
    named = {"model_id": "walk", "display_name": "Walk"}
    model = await do("create_model", "POST", f"{base}/models", named, action="model.created")
    at = f"/v1/models/{model['id']}"
    await do("update_model", "PATCH", at, {"display_name": "Run"}, action="model.updated")
    await do("delete_model", "DELETE", at, action="model.deleted")
    await do("delete_provider", "DELETE", base, action="provider.deleted")


async def walk_files(walk: Walk) -> None:
    do = walk.do
    name = {"name": fresh("walk")}
    space = await do("create_workspace", "POST", "/v1/workspaces", name, action="workspace.created")
    base = f"/v1/workspaces/{space['id']}"
    await do("update_workspace", "PATCH", base, {"description": "W."}, action="workspace.updated")
    await _files(walk, f"{base}/fs")
    await do("delete_workspace", "DELETE", base, action="workspace.archived")
    memory = await do("create_memory", "POST", "/v1/memories", name, action="memory.created")
    base = f"/v1/memories/{memory['id']}"
    await do("update_memory", "PATCH", base, {"description": "M."}, action="memory.updated")
    at, text = f"{base}/fs/one.md", {"content": "One."}
    await do("create_file", "POST", at, text, action="file.created")
    await do("update_file", "PUT", at, {"content": "Two."}, action="file.updated")
    versions = (await walk.http.get(f"{base}/versions")).json()["data"]
    version = f"{base}/versions/{versions[-1]['id']}/redact"
    await do("redact_memory_version", "POST", version, action="memory_version.redacted")
    await do("delete_file", "DELETE", at, action="file.deleted")
    await do("delete_memory", "DELETE", base, action="memory.deleted")


def _skill(name: str) -> str:
    return f"---\nname: {name}\ndescription: Walks.\n---\n\nWalk.\n"


async def walk_skills(walk: Walk) -> None:
    do = walk.do
    body = {"skill_md": _skill(fresh("walk"))}
    skill = await do("create_skill", "POST", "/v1/skills", body, action="skill.created")
    base = f"/v1/skills/{skill['id']}"
    await do("update_skill", "PATCH", base, {"status": "disabled"}, action="skill.updated")
    packed, name = io.BytesIO(), fresh("walk")
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{name}/SKILL.md", _skill(name))
    sent = {"files": {"file": ("walk.zip", packed.getvalue(), "application/zip")}}
    await do("upload_skill", "POST", "/v1/skills/upload", action="skill.created", **sent)
    await do("delete_skill", "DELETE", base, action="skill.archived")
    await do("destroy_skill", "POST", f"{base}/delete", action="skill.deleted")


async def walk_hooks(walk: Walk, task: str, item: str) -> None:
    """Change webhooks, budgets and workers.

    Args:
        task: the path of a task.
        item: the id of an item of the inbox.
    """
    do = walk.do
    hook = {"url": "https://hooks.invalid/x?key=" + SECRET, "secret": f"whsec_{CODED}"}
    made = await do("create_webhook", "POST", "/v1/task-webhooks", hook, action="webhook.created")
    base = f"/v1/task-webhooks/{made['id']}"
    await do("update_webhook", "PATCH", base, {"enabled": False}, action="webhook.updated")
    await do("delete_webhook", "DELETE", base, action="webhook.deleted")
    url = {"url": "https://hooks.invalid/y"}
    config = await do(
        "create_task_push_config", "POST", f"{task}/push-configs", url, action="webhook.created"
    )
    at = f"{task}/push-configs/{config['id']}"
    await do("delete_task_push_config", "DELETE", at, action="webhook.deleted")
    await do("create_inbox_link", "POST", f"/v1/inbox/{item}/links", {}, action="inbox_link.created")
    amount = {"currency": "tokens", "limit": 10**12}
    subject = {"subject_type": "organization", "subject_id": walk.org}
    budget = await do("create_budget", "POST", "/v1/budgets", amount | subject, action="budget.created")
    base = f"/v1/budgets/{budget['id']}"
    await do("update_budget", "PATCH", base, {"limit": 10**11}, action="budget.updated")
    await do("top_up_budget", "POST", f"{base}/top-up", {"amount": 5}, action="budget.topped_up")
    await do("delete_budget", "DELETE", base, action="budget.deleted")
    worker = (await walk.http.get("/v1/durable/workers")).json()["data"][0]
    at = f"/v1/durable/workers/{worker['id']}"
    await do("drain_worker", "POST", f"{at}/drain", action="worker.drained")
    await do("resume_worker", "POST", f"{at}/resume", action="worker.resumed")


async def walk_mcp(walk: Walk, crm: OAuthServer, browser: Browser) -> None:
    do = walk.do
    async with McpStub([tool("find")]) as stub:
        body = {"name": fresh("walk"), "url": stub.url, "headers": {"X-Key": SECRET}}
        server = await do("create_mcp_server", "POST", "/v1/mcp-servers", body, action="mcp_server.created")
        base = f"/v1/mcp-servers/{server['id']}"
        await do("update_mcp_server", "PATCH", base, {"api_key": SECRET}, action="mcp_server.updated")
        label = {"label": "trusted"}
        at = f"{base}/tools/find"
        await do("set_mcp_tool_label", "PUT", f"{at}/label", label, action="mcp_server.updated")
        await do("accept_mcp_tool", "POST", f"{at}/accept", {}, action="mcp_tool.accepted")
        inline = {"shop": {"url": stub.url}}
        session = (await walk.http.post("/v1/sessions", json={"mcpServers": inline})).json()
        at = f"/v1/sessions/{session['id']}/mcp-servers/shop"
        accepted = f"{at}/tools/find/accept"
        await do("accept_session_mcp_tool", "POST", accepted, {}, action="mcp_tool.accepted")
        await do("remove_session_mcp_server", "DELETE", at, action="session.updated")
        await do("delete_mcp_server", "DELETE", base, action="mcp_server.archived")
        await do("destroy_mcp_server", "POST", f"{base}/delete", action="mcp_server.deleted")
    await _sign_in(walk, crm, browser, "/v1/user/connections", "user", "delete_connection")
    organization = f"/v1/orgs/{walk.org}/organization-connections"
    await _sign_in(walk, crm, browser, organization, "service", "delete_organization_connection")


async def _sign_in(
    walk: Walk, crm: OAuthServer, browser: Browser, path: str, acts_as: str, removal: str
) -> None:
    body = {"name": fresh("walk"), "url": crm.mcp, "auth_mode": "o_auth", "acts_as": acts_as}
    server = (await walk.http.post("/v1/mcp-servers", json=body)).json()
    link = (await walk.http.post(f"{path}/{server['id']}/sign-in")).json()["url"]
    assert (await browser.sign_in(link)).status_code == 200
    entries = (await walk.http.get(f"/v1/orgs/{walk.org}/audit-logs")).json()["data"]
    newest = entries[0]
    assert newest["actor"]["type"] == "link"
    await walk.check("finish_sign_in", "connection.signed_in", newest["request_id"])
    assert [each for each in crm.secrets if each in str(entries)] == []
    await walk.do(removal, "DELETE", f"{path}/{server['id']}", action="connection.deleted")
