"""An approval outlives what happens while it waits: a link made before decides afterwards."""

from __future__ import annotations

import httpx

from tests.journeys.linked import CAREFUL, deletion, items_after, link_to, outcome, use, waiting
from tests.journeys.people import get, new_agent, patch
from tests.server import post, use_simulated_model
from tests.talk import Talk, kinds_of, new_talk, script, text_in

MEMORY = "The user wants the old plan deleted."


async def test_a_fork_gets_a_copy_without_the_question(api: httpx.AsyncClient) -> None:
    talk, item = await waiting(api)
    link = await link_to(api, item)
    fork = Talk(api, (await post(api, talk.path("/fork"), {}))["id"])
    assert (await fork.read())["status"] == "idle"
    assert (await get(api, "/v1/inbox", session_id=fork.id))["data"] == []
    await use(api, link, "allow")
    await talk.logged_until("session.idled")
    assert await outcome(talk) == "success"
    assert (await outcome(fork), kinds_of(await fork.events()).count("turn.cancelled")) == ("", 1)
    assert (await api.get(fork.path("/fs/a.md"))).status_code == 200


async def test_a_compaction_before_and_after_the_question_keeps_the_call(api: httpx.AsyncClient) -> None:
    summarizing = {
        "ref": "context_compaction",
        "config": {"instructions": script({"text": MEMORY}, ask="Be brief.")},
    }
    talk = await new_talk(api, capabilities=[summarizing, *CAREFUL["capabilities"]])
    for number in range(3):
        await talk.turn({"text": f"Noted {number}."}, ask=f"Story {number}.")
    full = {"code": "context_length_exceeded", "message": "too many tokens", "times": 1}
    steps = ({"fail": full, "tool_calls": [deletion()]}, {"fail": full, "text": "It is gone."})
    message = await talk.say(script(*steps))
    (item,) = await items_after(talk, message["sequence"])
    await use(api, await link_to(api, item), "allow")
    events = await talk.logged_until("session.idled", after=message["sequence"])
    kinds = kinds_of(events)
    assert kinds.count("context.compacted") >= 1
    assert kinds.index("context.compacted") < kinds.index("tool.call_requested")
    assert await outcome(talk) == "success"
    seen = (await talk.events(types="llm.generation"))[-1]["data"]["messages"]
    assert MEMORY in text_in(seen[0])
    assert [part["tool_call_id"] for part in seen[-1]["content"]] == ["call_1"]


async def test_another_model_and_an_archived_agent_go_on_with_the_decision(api: httpx.AsyncClient) -> None:
    provider = await post(api, "/v1/providers", {"name": "Leaving", "provider_type": "llmsim"})
    leaving = await post(
        api, f"/v1/providers/{provider['id']}/models", {"model_id": "leaving", "display_name": "Leaving"}
    )
    agent = await new_agent(api, default_model_id=leaving["id"], **CAREFUL)
    talk, item = await waiting(api, agent_id=agent["id"], capabilities=[])
    link = await link_to(api, item)
    await patch(api, agent["self_url"], {"status": "archived"})
    staying = await use_simulated_model(api)
    await patch(api, talk.path(), {"model_id": staying})
    assert (await api.delete(f"/v1/providers/{provider['id']}")).status_code == 204
    await use(api, link, "allow")
    await talk.logged_until("session.idled")
    assert await outcome(talk) == "success"
    models = [each["data"]["metadata"]["model"] for each in await talk.events(types="llm.generation")]
    assert models == ["leaving", "simulated"]


async def test_a_decision_for_an_archived_session_still_counts(api: httpx.AsyncClient) -> None:
    talk, item = await waiting(api)
    link = await link_to(api, item)
    assert (await api.put(talk.path("/archive"))).status_code == 200
    await use(api, link, "reject")
    await talk.logged_until("session.idled")
    assert await outcome(talk) == "rejected"


async def test_a_deleted_session_ends_its_links(api: httpx.AsyncClient) -> None:
    talk, item = await waiting(api)
    link = await link_to(api, item)
    assert (await api.delete(talk.path())).status_code in (200, 204)
    assert (await use(api, link, "allow", 410))["code"] == "link_gone"
