"""States of tools with effects: killed between two steps, and in the middle of one."""

from __future__ import annotations

import tempfile
from typing import ClassVar

from tests.talk import Json, when
from tests.upgrade.place import Place
from tests.upgrade.state import State, call, of_kind, outcomes, results


async def steps_of(place: Place, name: str) -> list[Json]:
    """The events about steps so far."""
    return of_kind(await place.talk(name).events(), "tool.step")


class KilledBetweenSteps(State):
    """A tool had finished one of its two steps: it goes on with the second, with the first one's result and
    the same effect key."""

    since = "0.2.0"
    phase = "held"
    session: ClassVar[str] = "killed between steps"
    note: ClassVar[str] = "between"
    events: ClassVar[int] = 2

    async def reach(self, old: Place) -> Json:
        with tempfile.TemporaryDirectory() as desk:
            talk = await old.session(self.session, harness_name="base", capabilities=[{"ref": "deferring"}])
            calls = [call("in_steps", "steps", desk=desk, note=self.note)]
            await old.say(self.session, {"calls": calls}, {"text": "Both done."})

            async def taken() -> bool:
                return len(await steps_of(old, self.session)) == self.events

            await when(taken)
        (started,) = of_kind(await talk.events(), "tool.started")
        first = (await steps_of(old, self.session))[1]["result"]
        return {"key": started["effect_key"], "first": first}

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until(self.session, "session.idled")
        assert results(events) == [[facts["first"], "second", facts["key"]]]


class KilledInsideAStep(KilledBetweenSteps):
    """A tool was in the middle of its second step: the model is told that the outcome is unknown."""

    session = "killed inside a step"
    note = "inside"
    events = 3

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until(self.session, "session.idled")
        assert outcomes(events) == {"steps": "interrupted"}
        (done,) = of_kind(events, "tool.completed")
        assert done["outcome_unknown"]
        assert "Steps that are done: first. Steps that had begun: second." in done["error"]


EFFECTS: tuple[State, ...] = (KilledBetweenSteps(), KilledInsideAStep())
