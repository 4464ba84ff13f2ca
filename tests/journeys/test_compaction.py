"""A conversation that reaches its token limit: the model summarizes it, and nothing is lost."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.conformance.drivers.vendor import JSON, Reply, open_vendor
from tests.server import Server, post
from tests.talk import Json, Talk, call, kinds_of, new_talk, script, text_in
from tests.vendors import CHAT, answer, new_model, vendor_provider

ROOM = 1_500
"""The limit of history tokens in a model call."""
LONG = "a long story " * 90
"""Some 300 tokens."""
MEMORY = "The user keeps bees and has told long stories."


def rules(*steps: Json, **more: object) -> list[Json]:
    """Build the capability, with a script that the simulated model plays when it is asked for a summary."""
    return [
        {"ref": "context_compaction", "config": {"instructions": script(*steps, ask="Be brief."), **more}}
    ]


@pytest.fixture
def environment() -> dict[str, str]:
    """Limit the history of model calls."""
    return {"PERDURE_HISTORY_TOKENS": str(ROOM)}


async def told(talk: Talk, turns: int, begin: int = 0) -> list[Json]:
    """Run turns with long messages, numbered from `begin`; return the events of the last one."""
    events: list[Json] = []
    for number in range(begin, begin + turns):
        events = await talk.turn({"text": f"Noted {number}."}, ask=f"Story {number}: {LONG}")
    return events


def only(events: list[Json], kind: str) -> Json:
    (found,) = [event for event in events if event["type"] == kind]
    return found


async def shown(talk: Talk) -> list[Json]:
    """Return the prompt of the newest model call of a turn."""
    messages: list[Json] = (await talk.events(types="llm.generation"))[-1]["data"]["messages"]
    return messages


async def test_a_summary_replaces_the_older_part_which_stays_in_the_log(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http, capabilities=rules({"text": MEMORY}))
    await told(talk, 3)
    before = await talk.read()
    events = await told(talk, 1, begin=3)
    kinds = kinds_of(events)
    begin = kinds.index("context.compacting")
    assert kinds[begin : begin + 4] == [
        "context.compacting",
        "llm.generation",
        "context.compacted",
        "reason.started",
    ]
    compacting, compacted = (
        only(events, "context.compacting")["data"],
        only(events, "context.compacted")["data"],
    )
    assert (compacting["reason"], compacting["strategy"]) == ("proactive_budget", "summary")
    assert (compacted["strategy_used"], compacted["summary"]) == ("summary", MEMORY)
    assert compacting["messages_before"] == compacted["messages_before"] > compacted["messages_after"]
    spans = [only(events, f"context.{word}")["context"]["span_id"] for word in ("compacting", "compacted")]
    assert spans[0] == spans[1] == events[begin + 1]["context"]["parent_span_id"]

    seen = await shown(talk)
    assert MEMORY in text_in(seen[0])
    assert (seen[0]["role"], len(seen)) == ("user", compacted["messages_after"])
    assert "Story 3" in text_in(seen[-1])
    assert not any("Story 0" in text_in(message) for message in seen)
    assert [text_in(message)[:7] for message in await talk.messages() if message["role"] == "user"] == [
        f"Story {number}" for number in range(4)
    ]
    # Three calls so far, one for the summary, and one for the answer.
    usage = (await talk.read())["usage"]["input_tokens"] - before["usage"]["input_tokens"]
    spent = [
        event["data"]["metadata"]["usage"]["input_tokens"]
        for event in await talk.events(types="llm.generation")
    ]
    assert len(spent) == 5
    assert usage == sum(spent[3:])


async def test_room_is_made_for_a_large_message_before_the_turn_that_it_waited_for(
    http: httpx.AsyncClient,
) -> None:
    talk = await new_talk(http, capabilities=rules({"text": MEMORY}))
    await told(talk, 2)
    await talk.say(script({"text": "Noted.", "first_ms": 500}, ask="Short."))
    waits = {"when_busy": "queue"}
    queued = await talk.say(script({"text": "Read."}, ask=f"Story 9: {LONG * 2}"), controls=waits)
    events = await talk.logged_until("session.idled", after=queued["sequence"])
    kinds = kinds_of(events)
    own_turn = kinds[len(kinds) - kinds[::-1].index("turn.started") :]
    assert own_turn[:4] == ["context.compacting", "llm.generation", "context.compacted", "reason.started"]
    seen = [text_in(message) for message in await shown(talk)]
    assert MEMORY in seen[0]
    assert seen[-1].startswith("Story 9")


async def test_the_summarizing_model_gets_the_messages_and_tool_results(
    http: httpx.AsyncClient,
) -> None:
    talk = await new_talk(
        http, harness_name="base", capabilities=[{"ref": "session_storage"}, *rules({"text": MEMORY})]
    )
    await talk.turn(
        {"tool_calls": [call("kv_store", operation="set", key="hive", value="seven")]},
        {"text": "Kept."},
        ask=f"Keep this. {LONG}",
    )
    await told(talk, 3)
    asked = next(
        event
        for event in await talk.events(types="llm.generation")
        if event["data"]["output"].get("text") == MEMORY
    )
    record = asked["data"]["messages"]
    assert [message["role"] for message in record[:4]] == ["user", "agent", "tool_result", "agent"]
    assert text_in(record[0]).startswith("Keep this.")


async def test_a_summary_includes_the_previous_one(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http, capabilities=rules({"text": MEMORY}))
    await told(talk, 8)
    compacted = await talk.events(types="context.compacted")
    assert len(compacted) >= 2
    second = next(
        event
        for event in await talk.events(types="llm.generation")
        if event["sequence"] == compacted[1]["sequence"] - 1
    )
    assert MEMORY in text_in(second["data"]["messages"][0])
    assert sum(MEMORY in text_in(message) for message in await shown(talk)) == 1


async def test_a_restarted_server_continues_from_the_summary(
    any_server: Server, http: httpx.AsyncClient
) -> None:
    talk = await new_talk(http, capabilities=rules({"text": MEMORY}))
    await told(talk, 4)
    held = await shown(talk)
    await any_server.restart()
    await talk.turn({"text": "Here again."}, ask="Go on.")
    seen = await shown(talk)
    assert [message["id"] for message in seen[: len(held)]] == [message["id"] for message in held]
    assert [message["role"] for message in seen[len(held) :]] == ["agent", "user"]


async def test_a_copy_of_a_session_has_its_summary(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http, capabilities=rules({"text": MEMORY}))
    await told(talk, 4)
    copy = Talk(http, (await post(http, talk.path("/fork"), {}))["id"])
    await copy.turn({"text": "I am the copy."}, ask="Who are you?")
    assert MEMORY in text_in((await shown(copy))[0])
    assert (await shown(copy))[-1]["role"] == "user"


async def test_a_long_turn_is_summarized_between_its_steps(http: httpx.AsyncClient) -> None:
    talk = await new_talk(
        http, harness_name="base", capabilities=[{"ref": "session_storage"}, *rules({"text": MEMORY})]
    )
    step = {"text": LONG, "tool_calls": [call("kv_store", operation="list")]}
    events = await talk.turn(*[step] * 5, {"text": "Done."})
    kinds = kinds_of(events)
    assert kinds[-2:] == ["turn.completed", "session.idled"]
    at = kinds.index("context.compacted")
    assert (kinds[at + 1], events[at]["data"]["summary"]) == ("reason.started", MEMORY)
    seen = next(
        event for event in await talk.events(types="llm.generation", after_sequence=events[at]["sequence"])
    )
    assert [message["role"] for message in seen["data"]["messages"]][:3] == ["user", "agent", "tool_result"]


async def test_a_prompt_that_the_model_rejects_as_too_long_is_summarized_and_resent(
    http: httpx.AsyncClient,
) -> None:
    talk = await new_talk(http, capabilities=rules({"text": MEMORY}))
    await told(talk, 2)
    too_long = {
        "fail": {"code": "context_length_exceeded", "message": "too many tokens", "times": 1},
        "text": "Now it fits.",
    }
    events = await talk.turn(too_long, ask="Short.")
    assert only(events, "context.compacting")["data"]["reason"] == "request_too_large"
    kinds = kinds_of(events)
    assert (
        kinds.index("reason.started")
        < kinds.index("context.compacted")
        < kinds.index("output.message.completed")
    )
    assert text_in(only(events, "output.message.completed")["data"]["message"]) == "Now it fits."
    seen = await shown(talk)
    assert MEMORY in text_in(seen[0])
    assert text_in(seen[-1]).startswith("Short.")
    assert only(events, "turn.completed")["data"]["llm_call_count"] == 2


async def test_a_turn_continues_without_a_summary_if_none_can_be_written(http: httpx.AsyncClient) -> None:
    talk = await new_talk(
        http, capabilities=rules({"fail": {"code": "content_filtered", "message": "no", "transient": False}})
    )
    events = await told(talk, 6)
    assert kinds_of(events)[-2:] == ["turn.completed", "session.idled"]
    compacted = (await talk.events(types="context.compacted"))[-1]["data"]
    assert (compacted["strategy_used"], compacted["error"]) == ("none", "no")
    assert compacted["messages_after"] == compacted["messages_before"]
    assert "Story 5" in text_in((await shown(talk))[-1])


async def test_without_the_capability_the_oldest_part_is_left_out(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http, harness_name="base")
    await told(talk, 6)
    assert await talk.events(types="context.compacted") == []
    assert "Story 5" in text_in((await shown(talk))[-1])
    assert not any("Story 0" in text_in(message) for message in await shown(talk))


async def asked_of(talk: Talk, **arguments: object) -> Json:
    """Return the result of `query_history`."""
    events = await talk.turn({"tool_calls": [call("query_history", **arguments)]}, {"text": "Found."})
    done = only(events, "tool.completed")["data"]
    assert done["success"], done
    answer: Json = json.loads(done["result"][0]["text"])
    return answer


async def test_the_agent_finds_messages_that_are_no_longer_in_its_context(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http, capabilities=rules({"text": MEMORY}))
    await talk.turn(
        {"text": "Noted: the hive is in Łódź."},
        ask=f"The hive stands in ŁÓDŹ, under the old lime tree. {LONG}",
    )
    await told(talk, 5)
    assert not any("lime tree" in text_in(message) for message in await shown(talk))
    found = await asked_of(talk, query="łódź TREE")
    (message,) = found["messages"]
    assert (message["role"], found["next_before"]) == ("user", None)
    assert "under the old lime tree" in message["text"]
    around = await asked_of(talk, around=message["sequence"])
    assert [each["role"] for each in around["messages"][:2]] == ["user", "agent"]
    assert len(around["messages"][0]["text"]) > 1000


async def test_search_results_come_in_pages_newest_first(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    for number in range(5):
        await talk.turn({"text": f"Bee number {number}."}, ask="Count.")
    found: list[Json] = []
    more: dict[str, int] = {}
    while not found or more:
        answer = await asked_of(talk, query="bee number", limit=3, **more)
        found += answer["messages"]
        more = {"before": answer["next_before"]} if answer["next_before"] else {}
    assert [each["sequence"] for each in found] == sorted((each["sequence"] for each in found), reverse=True)
    assert [each["text"] for each in found if each["role"] == "agent"] == [
        f"Bee number {number}." for number in (4, 3, 2, 1, 0)
    ]
    assert (await asked_of(talk, query="wasp", before=found[0]["sequence"]))["messages"] == []


async def test_a_search_does_not_show_the_searches_before_it(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await asked_of(talk, query="bee")
    found = (await asked_of(talk))["messages"]
    assert [each["role"] for each in found] == ["user", "agent", "user"]
    assert found[1]["text"] == "Found."


async def test_an_invalid_configuration_is_refused(api: httpx.AsyncClient) -> None:
    for config in ({"at": 2}, {"at": "much"}, {"keep": 0}, {"else": 1}, {"instructions": "x" * 4001}):
        answer = await api.post(
            "/v1/sessions", json={"capabilities": [{"ref": "context_compaction", "config": config}]}
        )
        assert answer.status_code == 400, (config, answer.text)


async def test_a_rate_limit_only_delays_the_summary(http: httpx.AsyncClient) -> None:
    """The fallback writes it, or the same model once its turn goes on."""
    limited = Reply([CHAT.refusal("rate_limit", "Slow.")], 429, JSON | {"Retry-After": "3600"})
    async with open_vendor() as vendor, open_vendor() as spare:
        first, second = [
            (await new_model(http, await vendor_provider(http, each)))["id"] for each in (vendor, spare)
        ]
        for writer, others in ((spare, [second]), (vendor, [])):
            talk = await new_talk(
                http,
                model_id=first,
                fallback_models=others,
                harness_name="base",
                capabilities=[{"ref": "context_compaction"}],
            )
            for number in range(3):
                vendor.will(answer("Noted."))
                sent = await talk.say(f"Story {number}: {LONG}")
                await talk.logged_until("session.idled", after=sent["sequence"])
            vendor.will(limited, limited)
            writer.will(answer(MEMORY), answer("Done."))
            sent = await talk.say(f"Story 3: {LONG}")
            if not others:
                await talk.logged_until("turn.parked")
                await talk.say("Now?")
            events = await talk.logged_until("session.idled", after=sent["sequence"])
            ends = [each["data"] for each in events if each["type"] == "context.compacted"]
            assert [end.get("error_code") for end in ends] == ["provider_rate_limited", None]
            assert MEMORY in text_in((await shown(talk))[0])
