"""States of sessions with several agents: handed off, and with participants."""

from __future__ import annotations

import json
from typing import ClassVar

from tests.server import post
from tests.talk import Json, Talk
from tests.upgrade.place import Place
from tests.upgrade.state import State, call, last_text, of_kind, value


async def new_agent(old: Place, name: str, *capabilities: Json) -> str:
    """Create an agent; return its id."""
    fields = {"name": name, "system_prompt": f"You are {name}.", "capabilities": capabilities}
    return str((await post(old.http, "/v1/agents", fields))["id"])


async def agents_of(talk: Talk, events: list[Json]) -> list[str]:
    """The names of the agents that were called, in order."""
    names: Json = {}
    for each in of_kind(events, "reason.started"):
        answer = await talk.http.get(f"/v1/agents/{each['agent_id']}")
        names[each["agent_id"]] = answer.json()["name"]
    return [names[each["agent_id"]] for each in of_kind(events, "reason.started")]


class HandedOff(State):
    """The session goes on under the agent that it was handed to, under the policies of the first one."""

    since = "0.3.0"
    session: ClassVar[str] = "handed off"
    history: ClassVar[str] = "full"

    async def reach(self, old: Place) -> Json:
        prefix = self.session.replace(" ", "-")
        await new_agent(old, f"{prefix}-to", {"ref": "session_file_system"})
        config = {"agents": [f"{prefix}-to"], "history": self.history}
        asks = {"ref": "tool_approval", "config": {"mode": "normal"}}
        first = await new_agent(old, f"{prefix}-from", {"ref": "handoff", "config": config}, asks)
        files = [{"path": "/a", "content": "x"}]
        await old.session(self.session, agent_id=first, initial_files=files)
        await self.hand_off(old, f"{prefix}-to")
        return {"first": first}

    async def hand_off(self, old: Place, to: str) -> None:
        """Hand the session off."""
        hands = call("handoff_to_agent", "handoff", agent=to)
        events = await old.turn(self.session, {"calls": [hands]}, {"text": "Here I am."})
        assert last_text(events) == "Here I am."

    async def end(self, new: Place, facts: Json) -> None:
        talk = new.talk(self.session)
        assert (await talk.read())["created_with_agent_id"] == facts["first"]
        message = await new.say(self.session, {"calls": [call("delete_file", "delete", path="/a")]})
        events = await talk.logged_until("tool.call_requested", after=message["sequence"])
        assert await agents_of(talk, events) == [f"{self.session.replace(' ', '-')}-to"]
        await talk.cancel()


class KilledAfterAHandoff(HandedOff):
    """The session was handed off with a summary, and the next agent's model was asked: only that call is made
    again, and begins with the summary."""

    phase = "held"
    session = "killed after a handoff"
    history = "summary"

    async def hand_off(self, old: Place, to: str) -> None:
        """Hand the session off, with a model call that is held."""
        hold = old.script(self.session, {"text": "-"}, {"hold": "silent", "text": "Here I am."}, ask="Later.")
        hands = call("handoff_to_agent", "handoff", agent=to, summary="SUMMARY")
        text = old.script(self.session, {"calls": [hands]})
        # The model must not find the script in the script before it is in the summary.
        summary = json.dumps(hold)[1:-1].replace("[", "\\u005b")
        await old.tell(self.session, text.replace("SUMMARY", summary))
        await old.model.until_asked(f"{self.session}/old1", 1)

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until(self.session, "session.idled")
        assert last_text(events) == "Here I am."
        assert not of_kind(events, "session.handed_off")
        assert "Later." in new.model.calls(self.session)[-1].messages[0]
        await super().end(new, facts)


class TakingPart(State):
    """The participants are there, one that has left comes back with its id, and messages are for them."""

    since = "0.3.0"
    phase = "held"
    session: ClassVar[str] = "taking part"

    async def reach(self, old: Place) -> Json:
        talk = await old.session(self.session)
        joined = []
        for name in ("taking-part", "taken-part"):
            body = {"kind": "agent", "agent_id": await new_agent(old, name)}
            joined.append(await post(old.http, talk.path("/participants"), body))
        left = await old.http.delete(talk.path(f"/participants/{joined[1]['id']}"))
        assert left.status_code == 200
        await old.held(self.session, {"hold": "silent", "text": "For me."}, ask="@taking-part")
        return {"joined": joined}

    async def end(self, new: Place, facts: Json) -> None:
        talk, (here, gone) = new.talk(self.session), facts["joined"]
        events = await new.fresh_until(self.session, "session.idled")
        assert last_text(events) == "For me."
        (message,) = [each["message"] for each in of_kind(events, "output.message.completed")]
        assert message["author"]["participant_id"] == here["id"]
        assert [each["id"] for each in await value(talk, "/participants")][1:] == [here["id"]]
        body = {"kind": "agent", "agent_id": gone["agent_id"]}
        back = await post(talk.http, talk.path("/participants"), body)
        assert back["id"] == gone["id"]
        again = await new.turn(self.session, {"text": "For me, too."}, ask="@taken-part")
        assert await agents_of(talk, again) == ["taken-part"]


AGENTS: tuple[State, ...] = (HandedOff(), KilledAfterAHandoff(), TakingPart())
