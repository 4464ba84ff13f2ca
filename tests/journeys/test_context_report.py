"""The report on what fills a session's context, by source."""

from __future__ import annotations

from typing import Any

import httpx

from tests.talk import Json, Talk, call, new_talk

CLIENT_TOOL = {
    "type": "client_side",
    "name": "look_up",
    "description": "Look something up. " * 40,
    "parameters": {"type": "object"},
}


async def report(talk: Talk) -> tuple[Json, dict[str, Json], dict[tuple[str, str], int]]:
    """Return the report, its sections by key, and its contributions by section and source."""
    answer = await talk.http.get(talk.path("/context-report"))
    assert answer.status_code == 200, answer.text
    whole: Json = answer.json()
    sections = {each["key"]: each for each in whole["sections"]}
    shares = {(each["section_key"], each["source_id"]): each["tokens"] for each in whole["contributions"]}
    return whole, sections, shares


async def test_a_new_session_has_a_prompt_and_tools_and_no_messages(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, system_prompt="You keep bees. " * 100, tools=[CLIENT_TOOL])
    whole, sections, shares = await report(talk)
    assert (whole["session_id"], whole["model"]) == (talk.id, "simulated")
    assert list(sections) == ["system_prompt", "tools"]
    assert 350 < shares["system_prompt", "session"] < 400
    assert shares["tools", "client_side"] > 150
    assert shares["tools", "session_file_system"] > shares["tools", "current_time"]
    assert whole["estimated_input_tokens"] == sum(each["tokens"] for each in sections.values())
    for key, section in sections.items():
        assert section["tokens"] == sum(tokens for (of, _), tokens in shares.items() if of == key)


async def test_messages_and_results_are_counted_separately_and_results_by_tool(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    await talk.turn(
        {"tool_calls": [call("bash", command="seq 1 2000"), call("get_current_time", timezone="UTC")]},
        {"text": "Done."},
    )
    whole, sections, shares = await report(talk)
    assert [sections[key]["items"] for key in ("user_messages", "agent_messages", "tool_results")] == [
        1,
        2,
        2,
    ]
    assert shares["tool_results", "bash"] > 2_000 > shares["tool_results", "get_current_time"]
    assert whole["cumulative_usage"] == (await talk.read())["usage"]


async def test_instructions_from_files_count_with_their_present_text(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, initial_files=[{"path": "/AGENTS.md", "content": "Answer in rhymes. " * 200}])
    _, _, shares = await report(talk)
    assert 850 < shares["system_prompt", "agent_instructions"] < 1_000
    assert (await api.delete(talk.path("/fs/AGENTS.md"))).status_code == 200
    assert ("system_prompt", "agent_instructions") not in (await report(talk))[2]


async def test_after_a_compaction_the_summary_counts_instead_of_the_older_messages(
    api: httpx.AsyncClient,
) -> None:
    rules: dict[str, Any] = {"instructions": 'Be brief. [[sim [{"text": "They talked of bees."}]]]'}
    talk = await new_talk(api, capabilities=[{"ref": "context_compaction", "config": rules}])
    for number in range(3):
        await talk.turn({"text": "Noted."}, ask=f"{number} " + "bees " * 100)
    before = (await report(talk))[1]
    await talk.turn(
        {"fail": {"code": "context_length_exceeded", "times": 1}, "text": "It fits."}, ask="More."
    )
    after = (await report(talk))[1]
    assert "summary" not in before
    assert after["summary"]["items"] == 1
    assert after["user_messages"]["items"] < before["user_messages"]["items"] + 1


async def test_an_unknown_session_has_no_report(api: httpx.AsyncClient) -> None:
    answer = await api.get(f"/v1/sessions/session_{'0' * 32}/context-report")
    assert answer.status_code == 404
