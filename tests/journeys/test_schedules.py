"""Schedules: messages that the server sends, each exactly once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import pytest

from perdure.app.schedules import all_schedules, create_schedule, fire_due, redate_schedules
from perdure.app.sessions import create_session
from perdure.app.storage import put_secrets
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import new_id
from perdure.domain.schedules import MAX_ACTIVE, CreateSchedule, next_firing
from perdure.domain.sessions import CreateSession
from perdure.domain.storage import SetSecrets
from perdure.domain.times import from_rfc3339, to_rfc3339
from perdure.store.database import Tx
from perdure.store.schedules import DUE, add_schedule, list_schedules
from tests.inside import Gate, house_with
from tests.server import Server
from tests.talk import Json, call, new_talk, script


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def test_a_message_arrives_on_time_and_is_processed_once(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, capabilities=[{"ref": "session_schedule"}])
    made = (await api.post(talk.path("/schedules"), json={"message": "Time to look.", "at": soon(1)})).json()
    assert (await talk.read())["active_schedule_count"] == 1
    events = await talk.logged_until("turn.completed")
    (data,) = [event["data"] for event in events if event["type"] == "input.message"]
    assert data["origin"] == "schedule"
    message = data["message"]
    assert message["content"][0]["text"] == "Time to look."
    assert message["metadata"]["scheduled"]["schedule_id"] == made["id"]
    session = await talk.read()
    assert session["active_schedule_count"] == 0
    assert "schedules" in session["features"]
    over = (await api.get(talk.path(f"/schedules/{made['id']}"))).json()
    assert (over["enabled"], over["fire_count"], over.get("next_at")) == (False, 1, None)


async def test_a_firing_missed_while_the_server_was_down_happens_once(
    any_server: Server, http: httpx.AsyncClient
) -> None:
    talk = await new_talk(http)
    await http.post(talk.path("/schedules"), json={"message": "Missed.", "at": soon(1)})
    await any_server.kill()
    await any_server.start()
    events = await talk.logged_until("turn.completed")
    await any_server.restart()
    assert [event["type"] for event in await talk.events()].count("input.message") == 1
    assert [event["type"] for event in events].count("input.message") == 1


@pytest.mark.parametrize("question", ["approval", "client tool"])
async def test_a_schedule_waits_while_a_question_is_open_and_until_the_turn_has_ended(
    api: httpx.AsyncClient, question: str
) -> None:
    gate = {"ref": "tool_approval", "config": {"mode": "protective"}}
    tool = {"type": "client_side", "name": "ask", "description": "Ask.", "parameters": {"type": "object"}}
    fields = {"capabilities": [gate]} if question == "approval" else {"tools": [tool]}
    talk = await new_talk(api, **fields)
    name = "write_session_title" if question == "approval" else "ask"
    arguments = {"title": "New"} if question == "approval" else {}
    step = {"tool_calls": [call(name, "c0", **arguments)]}
    asked = await talk.say(script(step, {"text": "Done.", "first_ms": 2500}))
    await talk.logged_until("tool.call_requested", after=asked["sequence"])
    for message in ("hourly check", "other check"):
        at = await api.post(talk.path("/schedules"), json={"message": message, "at": soon(0.5)})
        assert at.status_code == 201
    other = await new_talk(api)  # a schedule that waits does not hold up others
    await api.post(other.path("/schedules"), json={"message": "elsewhere", "at": soon(0.6)})
    await other.logged_until("turn.completed")
    assert (await talk.read())["status"] == "waiting_for_tool_results"
    if question == "approval":
        body = {"decisions": [{"tool_call_id": "c0", "decision": "allow"}]}
        assert (await api.post(talk.path("/tool-approvals"), json=body)).status_code == 200
    else:
        await talk.answer({"tool_call_id": "c0", "result": "yes"})
    async with talk.follow() as stream:
        frames = [frame for _ in range(3) for frame in await stream.until("session.idled")]
    events = [frame.data for frame in frames if frame.logged]
    assert [each["data"]["success"] for each in events if each["type"] == "tool.completed"][-1]
    turns = [each["type"] for each in events if each["type"] in ("input.message", "turn.completed")]
    assert turns == ["input.message", "turn.completed"] * 3
    assert "user sent a new message" not in str(events)


async def test_schedules_whose_next_firing_was_computed_by_a_clock_far_ahead_are_brought_forward(
    tmp_path: Path,
) -> None:
    async with house_with(Gate(parties=1), tmp_path) as house:
        app, year = house.parts.app, 365 * 86_400_000_000
        ahead = msgspec.structs.replace(app, now=lambda: app.now() + 10 * year)
        await create_schedule(ahead, house.owner, house.session_id, CreateSchedule("m", cron="* * * * *"))
        assert await fire_due(app) == 0
        assert await redate_schedules(app) == 1
        (schedule,) = await all_schedules(app, house.owner, house.session_id)
        assert from_rfc3339(schedule.next_at or "") <= app.now() + 60_000_000
        assert await redate_schedules(app) == 0
        later = msgspec.structs.replace(app, now=lambda: app.now() + 61_000_000)
        assert await fire_due(later) == 1


async def test_a_schedule_that_cannot_fire_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with house_with(Gate(parties=1), tmp_path) as house:
        app = house.parts.app
        for cron in ("* * * * *", "*/2 * * * *"):
            await create_schedule(app, house.owner, house.session_id, CreateSchedule("m", cron=cron))
        sql = "UPDATE schedules SET cron = 'nonsense', next_at = 0 WHERE cron = '* * * * *'"
        await app.database.write(lambda tx: tx.run(sql))
        later = msgspec.structs.replace(app, now=lambda: app.now() + 121_000_000)
        assert await fire_due(later) == 1
        broken, good = await all_schedules(app, house.owner, house.session_id)
        assert (broken.enabled, broken.fire_count, good.enabled, good.fire_count) == (False, 0, True, 1)


@pytest.mark.parametrize("sealed", [b"", b"short", b"x" * 60])
async def test_a_session_whose_secrets_are_damaged_holds_up_no_schedule_of_others(
    tmp_path: Path, sealed: bytes
) -> None:
    async with house_with(Gate(parties=1), tmp_path) as house:
        app = house.parts.app
        other = (await create_session(app, house.owner, CreateSession())).id
        await put_secrets(app, house.owner, house.session_id, SetSecrets({"token": "a-long-secret"}))
        for session_id in (house.session_id, other):  # the damaged one is due first
            await create_schedule(app, house.owner, session_id, CreateSchedule("m", cron="* * * * *"))
        await app.database.write(lambda tx: tx.run("UPDATE secrets SET sealed = ?", sealed))
        later = msgspec.structs.replace(app, now=lambda: app.now() + 121_000_000)
        assert await fire_due(later) == 1
        (fired,) = await all_schedules(app, house.owner, other)
        assert fired.fire_count == 1


async def test_many_schedules_that_cannot_fire_hold_up_no_other_and_are_tried_again_later(
    tmp_path: Path,
) -> None:
    async with house_with(Gate(parties=1), tmp_path) as house:
        app = house.parts.app
        other = (await create_session(app, house.owner, CreateSession())).id
        await put_secrets(app, house.owner, house.session_id, SetSecrets({"token": "a-long-secret"}))
        for session_id in (house.session_id, other):
            await create_schedule(app, house.owner, session_id, CreateSchedule("m", at=soon(60)))

        async def multiply(tx: Tx) -> None:
            (row,) = await list_schedules(tx, house.session_id)
            for _ in range(2 * DUE):  # due before the other session's
                await add_schedule(tx, msgspec.structs.replace(row, id=new_id("sched"), next_at=1))
            await tx.run("UPDATE secrets SET sealed = ?", b"short")

        await app.database.write(multiply)
        later = msgspec.structs.replace(app, now=lambda: app.now() + 61_000_000)
        assert await fire_due(later) == 1
        (fired,) = await all_schedules(app, house.owner, other)
        assert fired.fire_count == 1
        await put_secrets(app, house.owner, house.session_id, SetSecrets({"token": "a-long-secret"}))
        assert await fire_due(later) == 0
        much_later = msgspec.structs.replace(app, now=lambda: app.now() + 125_000_000)
        assert await fire_due(much_later) >= 1


async def test_the_agent_makes_lists_and_cancels_its_own_schedules(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, capabilities=[{"ref": "session_schedule"}])
    steps = [
        {
            "tool_calls": [
                call("create_schedule", message="m", cron="0 9 * * mon-fri", timezone="Europe/Berlin")
            ]
        },
        {"tool_calls": [call("create_schedule", message="m", cron="nonsense"), call("list_schedules")]},
    ]
    events = await talk.turn(*steps, {"text": "Done."})
    results = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert [result["success"] for result in results] == [True, False, True]
    (known,) = (await api.get(talk.path("/schedules"))).json()["data"]
    await talk.turn({"tool_calls": [call("cancel_schedule", id=known["id"])]}, {"text": "Gone."})
    assert (await api.get(talk.path("/schedules"))).json()["data"] == []


async def test_a_session_has_at_most_five_active_schedules(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    answers = [
        await api.post(talk.path("/schedules"), json={"message": "m", "cron": "0 0 1 1 *"}) for _ in range(6)
    ]
    assert [answer.status_code for answer in answers] == [201] * 5 + [400]
    first = answers[0].json()["id"]
    off = (await api.patch(talk.path(f"/schedules/{first}"), json={"enabled": False})).json()
    assert off.get("next_at") is None
    assert (
        await api.post(talk.path("/schedules"), json={"message": "m", "cron": "0 0 1 1 *"})
    ).status_code == 201
    assert (await api.patch(talk.path(f"/schedules/{first}"), json={"enabled": True})).json()[
        "code"
    ] == "too_many_schedules"


async def test_parallel_tool_calls_and_requests_create_at_most_five_active_schedules(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api, capabilities=[{"ref": "session_schedule"}])
    calls = [call("create_schedule", message="m", cron="0 0 1 1 *") for _ in range(10)]
    body = {"message": "m", "cron": "0 0 1 1 *"}
    events, *answers = await asyncio.gather(
        talk.turn({"tool_calls": calls}, {"text": "Done."}),
        *(api.post(talk.path("/schedules"), json=body) for _ in range(3)),
    )
    made = [event for event in events if event["type"] == "tool.completed" and event["data"]["success"]]
    assert len(made) + sum(answer.is_success for answer in answers) == MAX_ACTIVE
    assert len((await api.get(talk.path("/schedules"))).json()["data"]) == MAX_ACTIVE


@pytest.mark.parametrize(
    "body",
    [
        {"message": "m"},
        {"message": "m", "cron": "* * * * *", "at": "2999-01-01T00:00:00Z"},
        {"message": "m", "at": "2001-01-01T00:00:00Z"},
        {"message": "m", "at": "soon"},
        {"message": "m", "cron": "* * * * * *"},
        {"message": "m", "cron": "61 * * * *"},
        {"message": "m", "cron": "@daily"},
        {"message": "m", "cron": "0 0 31 2 *"},
        {"message": "m", "cron": "0 0 * * *", "timezone": "Mars/Olympus"},
        {"message": "", "cron": "0 0 * * *"},
    ],
)
async def test_a_schedule_that_can_never_fire_is_refused(api: httpx.AsyncClient, body: Json) -> None:
    talk = await new_talk(api)
    answer = await api.post(talk.path("/schedules"), json=body)
    assert answer.status_code == 400, answer.text
    assert (await api.get(talk.path("/schedules"))).json()["data"] == []


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        {"at": "soon"},
        {"at": "2001-01-01T00:00:00Z"},
        {"cron": "61 * * * *"},
        {"cron": "@daily"},
        {"timezone": "Mars/Olympus"},
    ],
)
async def test_a_change_that_can_never_fire_is_refused_even_while_the_schedule_is_disabled(
    api: httpx.AsyncClient, change: Json, enabled: bool
) -> None:
    talk = await new_talk(api)
    body = {"message": "m", "cron": "0 0 1 1 *", "enabled": enabled}
    made = (await api.post(talk.path("/schedules"), json=body)).json()
    answer = await api.patch(talk.path(f"/schedules/{made['id']}"), json=change)
    assert answer.status_code == 400, answer.text
    assert (await api.get(talk.path(f"/schedules/{made['id']}"))).json() == made


@pytest.mark.parametrize(
    ("cron", "after", "comes"),
    [
        ("30 2 * * *", "2026-03-28T12:00:00+01:00", "2026-03-29T03:00:00+02:00"),
        ("30 2 * * *", "2026-03-29T12:00:00+02:00", "2026-03-30T02:30:00+02:00"),
        ("30 2 * * *", "2026-10-24T12:00:00+02:00", "2026-10-25T02:30:00+02:00"),
        ("30 2 * * *", "2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"),
        ("0 9 * * mon-fri", "2026-11-27T12:00:00+01:00", "2026-11-30T09:00:00+01:00"),
    ],
)
def test_changes_of_clocks_neither_skip_nor_repeat_a_firing(cron: str, after: str, comes: str) -> None:
    assert to_rfc3339(next_firing(cron, "Europe/Berlin", from_rfc3339(after))) == to_rfc3339(
        from_rfc3339(comes)
    )


def test_six_fields_are_not_a_cron_expression() -> None:
    with pytest.raises(InvalidInput, match="5 fields"):
        next_firing("0 * * * * *", "UTC", 0)
