"""States of waiting: for a client's tool, for an approval, and for a time."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from perdure.domain.callbacks import MAX_SECONDS
from perdure.domain.ids import SessionId
from perdure.domain.inbox import item_id
from tests.deferring import urls_on
from tests.server import post
from tests.talk import Json, kinds_of, when
from tests.upgrade.place import Place
from tests.upgrade.state import State, call, holds, last_text, of_kind, outcomes, text_at, value

WEATHER = {
    "type": "client_side",
    "name": "weather",
    "description": "The weather.",
    "parameters": {"type": "object"},
}
CAREFUL: Json = {"capabilities": [{"ref": "tool_approval", "config": {"mode": "normal"}}]}


async def ask_client(old: Place, name: str, *calls: Json) -> None:
    """Park a session with calls for its client."""
    talk = await old.session(name, tools=[WEATHER])
    await old.say(name, {"calls": list(calls)}, {"text": "Thank you."})
    await talk.logged_until("tool.call_requested")


async def ask_person(old: Place, name: str, *paths: str) -> None:
    """Park a session that wants to delete these files, one call each, whose id is the path's name."""
    talk = await old.session(
        name, **CAREFUL, initial_files=[{"path": f"/{path}", "content": "x"} for path in paths]
    )
    await old.say(
        name,
        {"calls": [call("delete_file", path, path=f"/{path}") for path in paths]},
        {"text": "As you wish."},
    )
    await talk.logged_until("tool.call_requested")


async def decide(place: Place, name: str, **decisions: str) -> Json:
    """Answer questions for approval."""
    given = [{"tool_call_id": call_id, "decision": decision} for call_id, decision in decisions.items()]
    talk = place.talk(name)
    decided: Json = await post(talk.http, talk.path("/tool-approvals"), {"decisions": given}, 200)
    return decided


async def link_to(place: Place, name: str, call_id: str) -> str:
    """Create a link to the question about a call; returns the path of its URL."""
    talk = place.talk(name)
    (event,) = await talk.events(types="tool.call_requested")
    ids = [each["arguments"]["tool_call_id"] for each in event["data"]["tool_calls"]]
    item = item_id(SessionId(talk.id), event["sequence"], ids.index(call_id))
    return urlsplit((await post(talk.http, f"/v1/inbox/{item}/links", {}))["url"]).path


async def decide_by_link(place: Place, name: str, link: str, decision: str) -> None:
    """Decide as somebody does who has the link."""
    talk = place.talk(name)
    shown = (await talk.http.get(link)).json()["shown"]
    await post(talk.http, link, {"decision": decision, "shown": shown}, 200)


async def there(place: Place, name: str, path: str) -> bool:
    """Whether the session has this file."""
    talk = place.talk(name)
    return (await talk.http.get(talk.path(f"/fs/{path}"))).status_code == 200


class WaitingForAClient(State):
    """Open calls of a client's tools take the client's answers, beside a result of the server's own from
    before."""

    async def reach(self, old: Place) -> Json:
        calls = [
            call("weather", "rome"),
            call("write_file", "write", path="/a", content="a"),
            call("weather", "oslo"),
        ]
        await ask_client(old, "waiting for a client", *calls)
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        talk = new.talk("waiting for a client")
        assert (await talk.read())["status"] == "waiting_for_tool_results"
        wrong = {"tool_call_id": "paris", "result": "rain"}
        assert (await talk.answer(wrong, status=400))["code"] == "unknown_tool_call"
        await talk.answer(
            {"tool_call_id": "oslo", "error": "snowed in"},
            {"tool_call_id": "rome", "result": {"sky": "clear"}},
        )
        events = await new.fresh_until("waiting for a client", "session.idled")
        assert outcomes(events) == {"rome": "success", "oslo": "error"}
        (asked,) = new.model.calls("waiting for a client")
        assert "clear" in asked.messages[-3]
        assert "snowed in" in asked.messages[-1]
        assert await text_at(talk, "/a") == "a"


class AClientSteppedOver(State):
    """A new message instead of the client's answer withdraws the open call, and the turn goes on with it."""

    async def reach(self, old: Place) -> Json:
        await ask_client(old, "a client stepped over", call("weather", "rome"))
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        await new.say("a client stepped over", {"text": "Never mind, then."}, ask="Never mind.")
        events = await new.fresh_until("a client stepped over", "session.idled")
        assert outcomes(events) == {"rome": "cancelled"}
        assert last_text(events) == "Never mind, then."
        late = await new.talk("a client stepped over").answer(
            {"tool_call_id": "rome", "result": "sun"}, status=409
        )
        assert late["code"] == "not_waiting_for_tool_results"


class QueuedBehindAClient(State):
    """Messages that wait behind a turn that waits for its client begin their turns in order."""

    since = "0.2.0"

    async def reach(self, old: Place) -> Json:
        name = "queued behind a client"
        await ask_client(old, name, call("weather", "rome"))
        for text in ("Second.", "Third."):
            await old.tell(name, old.script(name, {"text": text}), controls={"when_busy": "queue"})
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        talk = new.talk("queued behind a client")
        await talk.answer({"tool_call_id": "rome", "result": "sun"})
        events = await new.fresh_until("queued behind a client", "session.idled")
        assert outcomes(events) == {"rome": "success"}
        assert len(of_kind(events, "turn.completed")) == 3
        assert last_text(events) == "Third."


async def order(old: Place, name: str, **more: float) -> Json:
    """A session whose tool has opened a callback; returns the callback's path."""
    with tempfile.TemporaryDirectory() as desk:
        await old.session(name, harness_name="base", capabilities=[{"ref": "deferring"}])
        arguments: Json = {"desk": desk, "note": "url", "seconds": MAX_SECONDS, **more}
        await old.say(name, {"calls": [call("order", "later", **arguments)]}, {"text": "It is here."})
        (url,) = await urls_on(Path(desk), "url")
        if not more:
            await old.talk(name).logged_until("act.completed")
        return {"path": urlsplit(url).path}


class ParkedOnACallback(State):
    """A call that waits for its callback gets its result from the URL that the old server gave out."""

    since = "0.2.0"
    session: ClassVar[str] = "waiting for a callback"

    async def reach(self, old: Place) -> Json:
        return await order(old, self.session)

    async def end(self, new: Place, facts: Json) -> None:
        talk = new.talk(self.session)
        if "act.completed" not in kinds_of(await talk.events()):
            await new.fresh_until(self.session, "act.completed")
        assert [each["kind"] for each in (await talk.read())["parked_on"]] == ["callback"]
        await post(new.http, facts["path"], {"result": "here"}, 200)
        await post(new.http, facts["path"], {"result": "again"}, 410)
        events = await new.fresh_until(self.session, "session.idled")
        assert outcomes(events) == {"later": "success"}


class StartedWithACallback(ParkedOnACallback):
    """A tool that was killed after it had opened a callback still gets its result from there."""

    phase = "held"
    session = "killed before it waited for a callback"

    async def reach(self, old: Place) -> Json:
        return await order(old, self.session, slow=600)


class CallbackInTheBackground(State):
    """The result of a call that continued in the background arrives as a message."""

    since = "0.2.0"

    async def reach(self, old: Place) -> Json:
        facts = await order(old, "a callback in the background")
        await old.turn("a callback in the background", {"text": "Meanwhile."})
        return facts

    async def end(self, new: Place, facts: Json) -> None:
        await post(new.http, facts["path"], {"result": "here"}, 200)
        events = await new.fresh_until("a callback in the background", "session.idled")
        (message,) = of_kind(events, "input.message")
        assert message["message"]["metadata"]["callback"]["tool_call_id"] == "later"


class CancelledWhileItWaits(State):
    """A turn that waits for a client can be cancelled."""

    async def reach(self, old: Place) -> Json:
        await ask_client(old, "cancelled while it waits", call("weather", "rome"))
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        assert await new.talk("cancelled while it waits").cancel() != "no_op"
        events = await new.fresh_until("cancelled while it waits", "session.idled")
        assert kinds_of(events).count("turn.cancelled") == 1


class WaitedInVain(State):
    """Nobody answered in the time that the old server gave: the model is told so, and the turn goes on."""

    phase = "impatient"

    async def reach(self, old: Place) -> Json:
        await ask_client(old, "a client who never came", call("weather", "rome"))
        await ask_person(old, "a person who never came", "a")
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        for name, call_id, status in (
            ("a client who never came", "rome", "timeout"),
            ("a person who never came", "a", "rejected"),
        ):
            events = await new.fresh_until(name, "session.idled")
            assert outcomes(events)[call_id] == status, name
            assert len(new.model.calls(name)) == 1
        assert await there(new, "a person who never came", "a")


class WaitingForApproval(State):
    """Open questions can still be decided: what is allowed runs, what is rejected does not."""

    async def reach(self, old: Place) -> Json:
        await ask_person(old, "waiting for approval", "allowed", "rejected")
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        name = "waiting for approval"
        talk = new.talk(name)
        assert (await talk.read())["status"] == "waiting_for_tool_results"
        listed = (await talk.http.get("/v1/inbox", params={"session_id": talk.id})).json()
        assert {each["tool_call_id"] for each in listed["data"]} == {"allowed", "rejected"}
        assert await decide(new, name, allowed="allow") == {
            "accepted": 1,
            "status": "waiting_for_tool_results",
        }
        await decide_by_link(new, name, await link_to(new, name, "rejected"), "reject")
        events = await new.fresh_until(name, "session.idled")
        done = outcomes(events)
        assert (done["allowed"], done["rejected"]) == ("success", "rejected")
        assert (await there(new, name, "allowed"), await there(new, name, "rejected")) == (False, True)
        assert any("rejected" in text for text in new.model.calls(name)[0].messages)


class LinkedForApproval(State):
    """A link that the old server gave out decides after the upgrade."""

    since = "0.3.0"

    async def reach(self, old: Place) -> Json:
        await ask_person(old, "linked for approval", "a")
        return {"link": await link_to(old, "linked for approval", "a")}

    async def end(self, new: Place, facts: Json) -> None:
        name = "linked for approval"
        await decide_by_link(new, name, facts["link"], "allow")
        events = await new.fresh_until(name, "session.idled")
        assert outcomes(events) == {"a": "success"}
        assert not await there(new, name, "a")


class HalfDecided(State):
    """One of two questions was decided before: that decision holds, and nothing runs before the other."""

    async def reach(self, old: Place) -> Json:
        await ask_person(old, "half decided", "first", "second")
        assert (await decide(old, "half decided", first="allow"))["status"] == "waiting_for_tool_results"
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        assert await there(new, "half decided", "first")
        assert (await decide(new, "half decided", second="allow"))["status"] == "active"
        events = await new.fresh_until("half decided", "session.idled")
        assert {outcomes(events)[each] for each in ("first", "second")} == {"success"}
        assert not await there(new, "half decided", "first")


class DecidedForAlways(State):
    """A decision for always is remembered: the next call of that tool runs without a question."""

    async def reach(self, old: Place) -> Json:
        for name, decision in (("always allowed", "allow_always"), ("always rejected", "reject_always")):
            await ask_person(old, name, "a")
            await decide(old, name, a=decision)
            await old.talk(name).logged_until("session.idled")
        return {}

    async def end(self, new: Place, facts: Json) -> None:
        for name, status in (("always allowed", "success"), ("always rejected", "rejected")):
            await new.talk(name).http.post(new.talk(name).path("/fs/b"), json={"content": "b"})
            events = await new.turn(name, {"calls": [call("delete_file", "b", path="/b")]}, {"text": "Done."})
            assert outcomes(events) == {"b": status}
            assert not of_kind(events, "tool.call_requested")


class ScheduleDue(State):
    """A schedule whose time came while no server ran fires exactly once, and its message is worked on."""

    phase = "draining"

    async def reach(self, old: Place) -> Json:
        talk = await old.session("schedule due")
        message = old.script("schedule due", {"text": "On time."}, ask="Look now.")
        # Far enough that the build is over by then.
        at = (datetime.now(UTC) + timedelta(seconds=20)).isoformat()
        made = await post(talk.http, talk.path("/schedules"), {"message": message, "at": at})
        return {"id": made["id"]}

    async def end(self, new: Place, facts: Json) -> None:
        talk = new.talk("schedule due")
        events = await new.fresh_until("schedule due", "session.idled")
        assert last_text(events) == "On time."
        schedule = await value(talk, f"/schedules/{facts['id']}")
        assert (schedule["enabled"], schedule["fire_count"], schedule.get("next_at")) == (False, 1, None)
        (message,) = of_kind(await talk.events(), "input.message")
        assert message["message"]["metadata"]["scheduled"]["schedule_id"] == facts["id"]


class ScheduleMissedOften(State):
    """A regular schedule that was due many times while no server ran fires once for all of them, and goes
    on."""

    phase = "draining"

    async def reach(self, old: Place) -> Json:
        talk = await old.session("schedule missed often")
        message = old.script("schedule missed often", {"text": "Every minute."})
        made = await post(talk.http, talk.path("/schedules"), {"message": message, "cron": "* * * * *"})
        return {"id": made["id"]}

    async def end(self, new: Place, facts: Json) -> None:
        talk = new.talk("schedule missed often")
        path = f"/schedules/{facts['id']}"
        await talk.logged_until("turn.completed")
        stopped = (await talk.http.patch(talk.path(path), json={"enabled": False})).json()

        async def at_rest() -> bool:
            return bool((await talk.read())["status"] == "idle")

        await when(at_rest)
        # A minute may begin while the test runs.
        assert 1 <= stopped["fire_count"] <= 2
        assert len(of_kind(await talk.events(), "input.message")) == stopped["fire_count"]


class ScheduleNotDue(State):
    """Schedules that are not due keep their times and send nothing; one that was off stays off."""

    async def reach(self, old: Place) -> Json:
        talk = await old.session("schedule not due")
        bodies: list[Json] = [
            {"message": "m", "at": "2999-01-01T00:00:00Z", "name": "once"},
            {"message": "m", "cron": "30 4 29 2 *", "timezone": "Europe/Berlin", "enabled": False},
        ]
        return {"schedules": [await post(talk.http, talk.path("/schedules"), body) for body in bodies]}

    async def end(self, new: Place, facts: Json) -> None:
        talk = new.talk("schedule not due")
        assert holds((await value(talk, "/schedules"))["data"], facts["schedules"])
        assert kinds_of(await talk.events()) == ["session.started"]


WAITING: tuple[State, ...] = (
    WaitingForAClient(),
    AClientSteppedOver(),
    QueuedBehindAClient(),
    CancelledWhileItWaits(),
    WaitedInVain(),
    WaitingForApproval(),
    LinkedForApproval(),
    HalfDecided(),
    DecidedForAlways(),
    ScheduleDue(),
    ScheduleMissedOften(),
    ScheduleNotDue(),
    ParkedOnACallback(),
    StartedWithACallback(),
    CallbackInTheBackground(),
)


class StoppedByABudget(State):
    """A session that a budget has stopped waits on, and goes on once the budget has money."""

    since = "0.3.0"

    async def reach(self, old: Place) -> Json:
        name = "stopped by a budget"
        talk = await old.session(name)
        body = {"subject_type": "session", "subject_id": talk.id, "currency": "tokens", "limit": 100}
        budget = await post(talk.http, "/v1/budgets", body)
        await old.say(name, {"text": "At last."})
        await talk.logged_until("turn.parked")
        return {"budget": budget["id"]}

    async def end(self, new: Place, facts: Json) -> None:
        talk, path = new.talk("stopped by a budget"), f"/v1/budgets/{facts['budget']}"
        session = await talk.read()
        assert (session["status"], session["parked_on"][0]["budget_id"]) == ("paused", facts["budget"])
        assert (await value(talk, "/budget-check"))["error_code"] == "budget_exhausted"
        await post(talk.http, f"{path}/top-up", {"amount": 1_000_000}, 200)
        events = await new.fresh_until("stopped by a budget", "session.idled")
        assert (kinds_of(events)[0], last_text(events)) == ("budget.resumed", "At last.")
        (charge, _) = (await talk.http.get(f"{path}/ledger")).json()["data"]
        assert charge["amount"] > 0
