"""Links that decide one approval without a login: once, until the deadline, and only what was shown."""

from __future__ import annotations

import asyncio
import hashlib
import json
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest

from perdure.client import ApiError, Client
from perdure.domain.callbacks import sign_token
from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.linked import CAREFUL, ask, deletion, link_to, outcome, use, waiting
from tests.server import Server, post, use_simulated_model
from tests.talk import call, new_talk, script, when

BROWSER = {
    b"accept": b"text/html,application/xhtml+xml;q=0.9,*/*;q=0.8",
    b"user-agent": b"Browser/1 (\x9b2J)",
}
SCANNER = {"user-agent": "MailScanner"}


async def test_a_link_shows_its_item_and_decides_it_once(api: httpx.AsyncClient) -> None:
    talk, item = await waiting(api, title="Tidy up")
    link = await link_to(api, item)
    async with httpx.AsyncClient(base_url=api.base_url, timeout=30) as stranger:
        seen = (await stranger.get(link)).json()
        assert (seen["tool_name"], seen["arguments"]) == ("delete_file", {"path": "/a.md"})
        assert seen["session_title"] == "Tidy up"
        text = '{"arguments":{"path":"/a.md"},"tool_call_id":"call_1","tool_name":"delete_file"}'
        assert seen["shown"] == hashlib.sha256(text.encode()).hexdigest()
        body = {"decision": "allow", "shown": seen["shown"]}
        done = await stranger.post(link, json=body, headers={"user-agent": "curl/8", **forwarded("1.2.3.4")})
        assert (done.status_code, done.json()) == (200, {"status": "decided", "decision": "allow"})
        await talk.logged_until("session.idled")
        for answer in (await stranger.get(link), await stranger.post(link, json=body)):
            assert (answer.status_code, answer.json()["code"]) == (410, "link_gone")
            assert "delete_file was allowed at " in answer.json()["detail"]
    assert await outcome(talk) == "success"
    decided = (await talk.events(types="tool.completed"))[0]["data"]["decided"]
    me = (await api.get("/v1/users/me")).json()["id"]
    assert decided.pop("link").keys() == {"made_by", "made_at"}
    assert decided == {
        "decision": "allow",
        "by": me,
        "via": "link",
        "address": "127.0.0.1 (forwarded for 1.2.3.4)",
        "user_agent": "curl/8",
        "shown": seen["shown"],
    }


def forwarded(address: str) -> dict[str, str]:
    return {"x-forwarded-for": f"{address}, 10.0.0.1"}


async def test_programs_that_open_links_in_mails_decide_nothing(api: httpx.AsyncClient) -> None:
    talk, item = await waiting(api)
    link = await link_to(api, item)
    head = (await talk.events())[-1]["sequence"]
    async with httpx.AsyncClient(base_url=api.base_url, timeout=30) as stranger:
        for method in ("GET", "HEAD", "OPTIONS", "GET"):
            await stranger.request(method, link, headers=SCANNER)
            await stranger.request(method, link, params={"decision": "allow"}, headers=BROWSER)
        # One that even posts cannot know what was shown.
        for body, status in (
            ({}, 400),
            ({"decision": "allow"}, 400),
            ({"decision": "allow", "shown": "0" * 64}, 409),
            ({"decision": "allow_always", "shown": "0" * 64}, 400),
        ):
            assert (await stranger.post(link, json=body)).status_code == status
            assert (await stranger.post(link, data=body)).status_code == status
    assert (await talk.events())[-1]["sequence"] == head
    await use(api, link, "reject")
    await talk.logged_until("session.idled")
    assert await outcome(talk) == "rejected"


async def test_the_page_shows_the_call_and_its_form_decides(api: httpx.AsyncClient) -> None:
    talk, item = await waiting(api)
    link = await link_to(api, item)
    async with httpx.AsyncClient(base_url=api.base_url, timeout=30, headers=BROWSER) as browser:
        page = await browser.get(link)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["cache-control"] == "no-store"
        assert page.headers.get_list("x-content-type-options") == ["nosniff"]
        assert "path: /a.md" in unescape(page.text)
        shown = page.text.partition('name=shown value="')[2].partition('"')[0]
        lines = "\r\n" * 1_500  # browsers send two characters for what their field counts as one
        form = {
            "decision": "reject",
            "shown": shown,
            "reason": f"{lines}Keep it:\u202e it is \U000e0041still of use.",
        }
        done = await browser.post(link, data=form)
        assert (done.status_code, "<h1>Rejected</h1>" in done.text) == (200, True)
        again = await browser.get(link)
        assert (again.status_code, "was rejected at" in again.text) == (410, True)
        assert "<h1>This link no longer works</h1>" in again.text
    await talk.logged_until("session.idled")
    told = json.dumps((await talk.events(types="llm.generation"))[-1]["data"]["messages"])
    assert "Keep it: it is still of use" in told
    decided = (await talk.events(types="tool.completed"))[0]["data"]["decided"]
    assert decided["user_agent"] == "Browser/1 (\\u009b2J)"


async def test_nothing_keeps_what_a_link_shows_and_no_answer_repeats_its_token(
    sqlite_server: Server,
) -> None:
    async with httpx.AsyncClient(base_url=sqlite_server.url, timeout=30) as api:
        talk, item = await waiting(api)
        link = await link_to(api, item)
        token = link.rpartition("/")[2]
        shown = await api.get(link)
        page = await api.get(link, headers=BROWSER)
        assert page.headers["x-content-type-options"] == "nosniff"
        odd = [f"{before}{token}" for before in ("/v1//links/", "/V1/links/", "/v1/link/", "/v1/links/x/")]
        answers = [shown, page, await api.put(link), *[await api.get(path) for path in odd]]
        await use(api, link, "reject")
        answers += [await api.get(link), await api.get(link, headers=BROWSER)]
        assert [each.status_code for each in answers] == [200, 200, 405, 404, 404, 404, 404, 410, 410]
        for each in answers:
            assert each.headers["cache-control"] == "no-store"
            assert token[:20] not in each.text
        await talk.logged_until("session.idled")


async def test_nothing_in_a_call_can_deceive_its_reader(api: httpx.AsyncClient) -> None:
    command = (
        "echo ok</div><script>alert(1)</script>\n"
        "\u202etxt.evil\u200b" + " " * 400 + "; rm -rf /\r\n\x1b[2J</pre><form action=//evil.example>"
    )
    talk = await new_talk(api, **CAREFUL, title="<b>\u2066Bold")
    (item,) = await ask(talk, call("bash", "call_1", command=command, timeout=5))
    link = await link_to(api, item)
    async with httpx.AsyncClient(base_url=api.base_url, timeout=30, headers=BROWSER) as browser:
        page = (await browser.get(link)).text
    assert "<script" not in page
    assert "<b>\\" not in page
    assert page.count("<form") == 1
    assert not any(each in page for each in "\u202e\u200b\u2066\x1b\r")
    assert "<div class=code>│ echo ok&lt;/div&gt;" in page
    assert "\\u202etxt.evil\\u200b␠\N{MULTIPLICATION SIGN}400; rm -rf /\\u000d</div>" in page
    assert "<div class=note>· timeout: 5</div>" in page
    assert "unicode-bidi:bidi-override" in page


async def test_a_call_that_is_too_long_to_be_shown_can_only_be_rejected(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, capabilities=[{"ref": "tool_approval", "config": {"mode": "protective"}}])
    (item,) = await ask(talk, call("write_file", "call_1", path="/a", content="x" * 600_000))
    link = await link_to(api, item)
    async with httpx.AsyncClient(base_url=api.base_url, timeout=30, headers=BROWSER) as browser:
        page = (await browser.get(link)).text
    assert "too long to be shown" in page
    assert "value=allow" not in page
    assert (await use(api, link, "allow", 403))["code"] == "too_long_for_link"
    await use(api, link, "reject")
    await talk.logged_until("session.idled")
    assert await outcome(talk) == "rejected"


async def test_of_many_decisions_at_once_one_counts(api: httpx.AsyncClient) -> None:
    talk, item = await waiting(api)
    links = [await link_to(api, item) for _ in range(3)]
    shown = (await api.get(links[0])).json()["shown"]
    bodies = [{"decision": each, "shown": shown} for each in ("allow", "reject")]
    answers = await asyncio.gather(*(api.post(link, json=body) for link in links for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [200, *[410] * 5]
    (won,) = [answer.json()["decision"] for answer in answers if answer.status_code == 200]
    await talk.logged_until("session.idled")
    assert await outcome(talk) == {"allow": "success", "reject": "rejected"}[won]
    assert len([each for each in await talk.events() if each["data"].get("decided")]) == 1


async def test_a_link_cannot_decide_a_later_call_with_the_same_id(api: httpx.AsyncClient) -> None:
    talk, item = await waiting(api)
    link = await link_to(api, item)
    shown = (await api.get(link)).json()["shown"]
    message = await talk.say(script({"tool_calls": [deletion()]}, {"text": "Done."}))
    await talk.logged_until("tool.call_requested", after=message["sequence"])
    late = await api.post(link, json={"decision": "allow", "shown": shown})
    assert (late.status_code, late.json()["code"]) == (410, "link_gone")
    assert (await talk.read())["status"] == "waiting_for_tool_results"


async def test_the_client_reads_a_link_and_decides_by_it(sqlite_server: Server) -> None:
    async with Client(sqlite_server.url) as client:
        talk, item = await waiting(httpx.AsyncClient(base_url=sqlite_server.url, timeout=30))
        made = await client.create_inbox_link(item, expires_in_seconds=60)
        seen = await client.read_link(made.url)
        assert (seen.tool_name, seen.expires_at) == ("delete_file", made.expires_at)
        assert (await client.decide_by_link(made.url, "reject", seen.shown, "Not now.")).decision == "reject"
        with pytest.raises(ApiError, match="was rejected at"):
            await client.read_link(made.url.rpartition("/")[2])
        await talk.http.aclose()


async def test_a_link_ends_at_its_deadline(api: httpx.AsyncClient) -> None:
    talk, item = await waiting(api)
    made = await post(api, f"/v1/inbox/{item}/links", {"expires_in_seconds": 1})
    item_ends = (await api.get(f"/v1/inbox/{item}")).json()["expires_at"]
    assert made["expires_at"] < item_ends
    assert (await post(api, f"/v1/inbox/{item}/links", {}))["expires_at"] == item_ends
    link = httpx.URL(made["url"]).path
    shown = (await api.get(link)).json()["shown"]

    async def refused() -> bool:  # 429 until the link may be used again
        return (await api.get(link)).status_code == 410

    async def decided_late() -> bool:
        late = await api.post(link, json={"decision": "allow", "shown": shown})
        assert late.json()["code"] in ("rate_limited", "link_gone")
        return late.status_code == 410

    await when(refused)
    await when(decided_late)
    assert (await talk.read())["status"] == "waiting_for_tool_results"


async def test_only_tokens_that_were_issued_are_looked_at_and_each_has_its_limit(
    api: httpx.AsyncClient,
) -> None:
    _, item = await waiting(api)
    link = await link_to(api, item)
    guesses = [link[:-1] + ("A" if link[-1] != "A" else "B"), sign_token(b"other", "x" * 43, "pdr_il_"), "x"]
    for guess in (*guesses, link.replace("pdr_il_", "pdr_cb_")):
        answer = await api.get(f"/v1/links/{guess.rpartition('/')[2]}")
        assert (answer.status_code, answer.json()["code"]) == (410, "link_gone")
        assert answer.json()["instance"] == "/v1/links/..."  # not the token, which would get into logs
        assert (await api.post(f"/v1/callbacks/{guess.rpartition('/')[2]}", json={})).status_code == 410
    # A link is no callback.
    assert (await api.post(link.replace("/links/", "/callbacks/"), json={})).status_code == 410
    answers = await asyncio.gather(*(api.get(link) for _ in range(70)))
    assert {answer.status_code for answer in answers} == {200, 429}
    for _ in range(19):
        await link_to(api, item)
    refused = await api.post(f"/v1/inbox/{item}/links", json={})
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_links")
    bad = await api.post(f"/v1/inbox/{item}/links", json={"expires_in_seconds": 0})
    assert bad.status_code == 400


async def test_a_link_lends_what_its_maker_may_do_and_no_longer(database_url: str, tmp_path: Path) -> None:
    approvers = {"mode": "normal", "approvers": {"role": "admin"}}
    only_admins: Any = {"capabilities": [{"ref": "tool_approval", "config": approvers}]}
    async with Server(tmp_path / "data", database_url=database_url) as server:
        token = await with_login(server)
        async with person(server, token) as owner:
            ada, ada_token = await add_member(owner, "ada", "admin")
            bob, bob_token = await add_member(owner, "bob")
            _, carl_token = await add_member(owner, "carl")
            async with (
                person(server, ada_token) as admin,
                person(server, bob_token) as member,
                person(server, carl_token) as other,
            ):
                guarded, item = await waiting(owner, **only_admins)
                refused = await member.post(f"/v1/inbox/{item}/links", json={})
                assert (refused.status_code, refused.json()["code"]) == (403, "not_an_approver")
                link = await link_to(admin, item)
                lowered = await owner.patch(f"/v1/users/{ada['id']}", json={"role": "member"})
                assert lowered.status_code == 200
                assert (await use(owner, link, "allow", 410))["code"] == "link_gone"
                plain, free = await waiting(owner)
                by_member, by_other = await link_to(member, free), await link_to(other, free)
                assert (await owner.delete(f"/v1/users/{bob['id']}")).status_code == 204
                await use(owner, by_member, "allow", 410)
                tokens = (await other.get("/v1/users/me/tokens")).json()["data"]
                assert (await other.delete(f"/v1/users/me/tokens/{tokens[0]['id']}")).status_code == 204
                await use(owner, by_other, "allow", 410)
                for talk in (guarded, plain):
                    assert (await talk.read())["status"] == "waiting_for_tool_results"
                await use(owner, await link_to(owner, item), "allow")
                await guarded.logged_until("session.idled")
                assert await outcome(guarded) == "success"
        elsewhere = {"x-org-id": (await _new_organization(server, token))}
        async with person(server, token) as owner:
            missing = await owner.post(f"/v1/inbox/{free}/links", json={}, headers=elsewhere)
            assert missing.status_code == 404


async def _new_organization(server: Server, token: str) -> str:
    async with person(server, token) as owner:
        return str((await post(owner, "/v1/orgs", {"name": "Elsewhere"}))["id"])


async def test_a_decision_by_link_survives_a_kill(database_url: str, tmp_path: Path) -> None:
    async with Server(tmp_path / "data", database_url=database_url) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await use_simulated_model(http)
            (early, first), (late, second) = await waiting(http), await waiting(http)
            links = [await link_to(http, item) for item in (first, second)]
            await use(http, links[0], "allow")
        await server.restart()
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await use(http, links[1], "allow")
            for talk, link in zip((early, late), links, strict=True):
                talk.http = http
                await talk.logged_until("session.idled")
                assert await outcome(talk) == "success"
                await use(http, link, "reject", 410)
