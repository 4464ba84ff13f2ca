"""Steps of tools, and outcomes that are unknown without a crash (promise P10)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.app.storage import put_secrets
from perdure.capabilities import (
    NOT_DONE,
    READ_ONLY,
    UNKNOWN,
    Capability,
    OutcomeUnknown,
    Tool,
    ToolContext,
    ToolError,
    ToolOutcome,
    Verified,
    done,
    schema,
)
from perdure.domain.storage import SetSecrets
from perdure.engine.steps import MAX_RESULT, MAX_STEPS
from perdure.store.sessions import get_session
from tests.inside import House, house_with, outcomes
from tests.talk import Json, call, script

SECRET = "correct-horse-battery"


async def _say(value: Any) -> Any:
    return value


class Bench:
    """Tools with steps. `held` is set while a tool waits for `let_go`."""

    def __init__(self) -> None:
        self.held, self.let_go = asyncio.Event(), asyncio.Event()
        self.ran: list[str] = []
        self.left: list[Any] = []
        self.noted: list[Json] = []
        runs: dict[str, Callable[[ToolContext], Awaitable[Any]]] = {
            name: getattr(self, f"_{name}")
            for name in (
                "twice",
                "badly",
                "largely",
                "often",
                "in_tuples",
                "secretly",
                "on",
                "late",
                "held_up",
                "held_again",
            )
        }
        self.capability = Capability(
            "gate",
            "Gate",
            "For tests.",
            "test",
            tools=lambda config: (
                *(Tool(name, "Take steps.", schema({}), _run(run)) for name, run in runs.items()),
                Tool("pair", "Take two steps at once.", schema({}), _run(self._pair), timeout=2.0),
                Tool("slow", "Hang.", schema({}), _hang, timeout=0.05),
                Tool("slow_read", "Hang.", schema({}), _hang, timeout=0.05, hints=READ_ONLY),
                Tool("slow_done", "Hang.", schema({}), _hang, timeout=0.05, verify=_found),
                Tool("slow_unsure", "Hang.", schema({}), _hang, timeout=0.05, verify=_unsure),
                Tool("slow_exit", "Hang.", schema({}), _hang, timeout=0.05, verify=_leave),
                Tool("slow_odd", "Hang.", schema({}), _hang, timeout=0.05, verify=_odd),
                Tool(
                    "slow_secret",
                    "Hang.",
                    schema({"token": {"type": "string"}}, "token"),
                    _hang,
                    timeout=0.05,
                    verify=self._note,
                    secret_arguments=("token",),
                ),
                Tool("unsure", "Do not know.", schema({}), _do_not_know),
            ),
        )

    async def _twice(self, context: ToolContext) -> Any:
        await context.step("a", lambda: _say(1))
        return await context.step("a", lambda: _say(2))

    async def _badly(self, context: ToolContext) -> Any:
        return await context.step("\nname", lambda: _say(1))

    async def _largely(self, context: ToolContext) -> Any:
        await context.step("fits", lambda: _say("x" * (MAX_RESULT - 2)))
        return await context.step("large", lambda: _say("x" * MAX_RESULT))

    async def _often(self, context: ToolContext) -> Any:
        for number in range(MAX_STEPS + 1):
            await context.step(f"step {number}", lambda: _say(None))

    async def _in_tuples(self, context: ToolContext) -> Any:
        return await context.step("tuple", lambda: _say((1, ("two", None))))

    async def _secretly(self, context: ToolContext) -> Any:
        same = await context.step("secret", lambda: _say({"token": SECRET})) == {"token": SECRET}
        await self._wait()
        return same

    async def _on(self, context: ToolContext) -> Any:
        async def refuse() -> None:
            self.ran.append("refuse")
            raise ToolError("Sold out.")

        async def count() -> int:
            self.ran.append("count")
            return len(self.ran)

        try:
            await context.step("refuse", refuse)
        except ToolError as error:
            counted = await context.step("count", count)
            await self._wait()
            return [error.message, counted]

    async def _pair(self, context: ToolContext) -> Any:
        async def nothing() -> Verified:
            return NOT_DONE

        async def work() -> str:
            if len(self.ran) < 2:  # both are open when the first attempt is cut off
                self.ran.append("begun")
                if len(self.ran) == 2:
                    self.held.set()
                await self.let_go.wait()
            return "made again"

        return await asyncio.gather(*(context.step(name, work, verify=nothing) for name in "ab"))

    async def _held_up(self, context: ToolContext) -> Any:
        await context.step("before", lambda: _say(1))
        await self._wait()
        return await context.step("after", lambda: _say(2))

    async def _held_again(self, context: ToolContext) -> Any:
        await context.step("secret", lambda: _say(SECRET), idempotent=True)
        self.held.set()
        await self.let_go.wait()

    async def _late(self, context: ToolContext) -> Any:
        async def afterwards() -> None:
            await self.let_go.wait()
            try:
                await context.step("late", lambda: _say(self.ran.append("late")))
            except ToolError as error:
                self.ran.append(error.message)

        self.left.append(asyncio.create_task(afterwards()))
        return "gone"

    async def _note(self, context: ToolContext, arguments: Json) -> Verified:
        self.noted.append(arguments)
        return UNKNOWN

    async def _wait(self) -> None:
        """Wait, unless an earlier attempt of the call did."""
        if not self.held.is_set():
            self.held.set()
            await self.let_go.wait()


def _run(run: Callable[[ToolContext], Awaitable[Any]]) -> Any:
    async def of_call(context: ToolContext, arguments: Json) -> ToolOutcome:
        return ToolOutcome(await run(context))

    return of_call


async def _hang(context: ToolContext, arguments: Json) -> ToolOutcome:
    await asyncio.Event().wait()
    raise AssertionError


async def _found(context: ToolContext, arguments: Json) -> Verified:
    return done(f"found {context.effect_key}")


async def _unsure(context: ToolContext, arguments: Json) -> Verified:
    return UNKNOWN


async def _odd(context: ToolContext, arguments: Json) -> Verified:
    return done(object())


async def _leave(context: ToolContext, arguments: Json) -> Verified:
    raise SystemExit(3)


async def _do_not_know(context: ToolContext, arguments: Json) -> ToolOutcome:
    raise OutcomeUnknown("The line broke.")


async def _play(house: House, *names: str) -> list[Any]:
    await house.say(script({"tool_calls": [call(name) for name in names]}, {"text": "Done."}))
    return outcomes(await house.until_idle())


async def test_steps_are_checked_and_their_results_are_those_of_json(tmp_path: Path) -> None:
    async with house_with(Bench(), tmp_path) as house:
        ended = await _play(house, "twice", "badly", "largely", "often", "in_tuples")
        errors = [each.error or "" for each in ended[:4]]
        assert [text.split(". ")[0] for text in errors[:2]] == ["The tool failed: ValueError"] * 2
        assert "'large' is done, but its result has more than 100 KB" in errors[2]
        assert "ValueError" in errors[3]
        assert [each.outcome_unknown for each in ended] == [True, True, False, True, False]
        assert json.loads(ended[4].result[0].text) == [1, ["two", None]]


@pytest.mark.parametrize("cut_off", [False, True])
async def test_a_step_whose_result_has_a_secret_is_not_used_again(cut_off: bool, tmp_path: Path) -> None:
    bench = Bench()
    async with house_with(bench, tmp_path) as house:
        await put_secrets(house.parts.app, house.owner, house.session_id, SetSecrets({"TOKEN": SECRET}))
        await house.say(script({"tool_calls": [call("secretly")]}, {"text": "Done."}))
        await bench.held.wait()
        if cut_off:
            await house.recover()
        bench.let_go.set()
        events = await house.until_idle()
        (result,) = outcomes(events)
        step = next(event for event in events if event.type == "tool.step" and "completed" in event.data)
        assert step.decoded().redacted
        assert SECRET not in "".join(event.data for event in events)
        if cut_off:
            assert (result.status, result.outcome_unknown) == ("interrupted", True)
        else:
            assert result.result[0].text == "true"


async def test_a_step_that_is_made_again_is_no_progress(tmp_path: Path) -> None:
    bench = Bench()
    async with house_with(bench, tmp_path) as house:
        app, owner, session_id = house.parts.app, house.owner, house.session_id
        await put_secrets(app, owner, session_id, SetSecrets({"TOKEN": SECRET}))
        await house.say(script({"tool_calls": [call("held_again")]}, {"text": "Done."}))
        await bench.held.wait()
        bench.held.clear()
        recovery = asyncio.create_task(house.recover())
        await bench.held.wait()
        row = await app.database.read(lambda tx: get_session(tx, owner.organization_id, session_id))
        assert row.recoveries == 1, "or a tool that kills its server after the step would run for ever"
        bench.let_go.set()
        await recovery


async def test_a_tool_that_is_cut_off_goes_on_with_the_results_and_errors_of_its_steps(
    tmp_path: Path,
) -> None:
    bench = Bench()
    async with house_with(bench, tmp_path) as house:
        await house.say(script({"tool_calls": [call("on")]}, {"text": "Done."}))
        await bench.held.wait()
        await house.recover()
        (result,) = outcomes(await house.until_idle())
        assert json.loads(result.result[0].text) == ["Sold out.", 2]
        assert bench.ran == ["refuse", "count"]


async def test_waiting_for_the_requests_of_open_steps_does_not_count_as_the_time_of_the_call(
    tmp_path: Path,
) -> None:
    bench = Bench()
    async with house_with(bench, tmp_path) as house:
        await house.say(script({"tool_calls": [call("pair")]}, {"text": "Done."}))
        await bench.held.wait()
        await house.recover()
        (result,) = outcomes(await house.until_idle())
        assert json.loads(result.result[0].text) == ["made again", "made again"]


async def test_a_message_between_two_steps_is_answered_in_the_same_turn(tmp_path: Path) -> None:
    bench = Bench()
    async with house_with(bench, tmp_path) as house:
        await house.say(script({"tool_calls": [call("held_up")]}, {"text": "Done."}))
        await bench.held.wait()
        await house.say("And this?")
        bench.let_go.set()
        kinds = [event.type for event in await house.until_idle()]
        between = kinds[kinds.index("tool.step") : len(kinds) - kinds[::-1].index("tool.step")]
        assert between == ["tool.step", "tool.step", "input.message", "tool.step", "tool.step"]
        assert kinds.count("turn.started") == kinds.count("turn.completed") == 1


async def test_no_step_begins_after_its_call_has_ended(tmp_path: Path) -> None:
    bench = Bench()
    async with house_with(bench, tmp_path) as house:
        assert [each.status for each in await _play(house, "late")] == ["success"]
        bench.let_go.set()
        await asyncio.gather(*bench.left)
        assert bench.ran == ["the call has ended: its step 'late' cannot go on"]


async def test_a_call_that_broke_says_whether_its_outcome_is_known(tmp_path: Path) -> None:
    async with house_with(Bench(), tmp_path) as house:
        ended = await _play(
            house, "slow", "slow_read", "slow_done", "slow_unsure", "slow_exit", "unsure", "slow_odd"
        )
        assert [(each.status, each.outcome_unknown) for each in ended] == [
            ("timeout", True),
            ("timeout", False),
            ("success", False),
            ("timeout", True),
            ("timeout", True),
            ("error", True),
            ("timeout", True),
        ]
        assert ["may or may not" in (each.error or "") for each in ended] == [
            True,
            False,
            False,
            True,
            True,
            True,
            True,
        ]
        assert ended[2].result[0].text.startswith("found effect_")


async def test_a_verification_gets_the_arguments_as_the_tool_got_them(tmp_path: Path) -> None:
    bench = Bench()
    async with house_with(bench, tmp_path) as house:
        steps = {"tool_calls": [call("slow_secret", token=SECRET)]}, {"text": "Done."}
        await house.say(script(*steps))
        events = await house.until_idle()
        assert bench.noted == [{"token": SECRET}]
        assert SECRET not in "".join(event.data for event in events if event.type.startswith("tool."))
