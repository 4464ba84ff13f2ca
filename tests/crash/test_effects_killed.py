"""kill -9 during tools with effects (promise P10): outcomes are looked up, and steps are not repeated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import httpx

from perdure.domain.effects import part_key
from tests.crash.effects import EffectsServer
from tests.server import use_simulated_model
from tests.talk import Json, Talk, call, new_talk, script, when


@dataclass(frozen=True)
class Case:
    """Calls of one tool in one answer, and what is true after the kill.

    Attributes:
        effects: how often each effect of a call took place; `charge` is the only one of a tool without steps.
        status: how each call ends; words: what the model reads.
        verified: what the tool said about the outcome of each call.
    """

    tool: str
    hang: str
    effects: dict[str, int]
    status: str = "success"
    words: str = ""
    how: str = ""
    verified: tuple[str, ...] = ()
    calls: int = 1

    @property
    def name(self) -> str:
        return "_".join(filter(None, (self.tool, self.hang, self.how, str(self.calls))))

    @property
    def ids(self) -> list[str]:
        return [f"{self.name}_{number}" for number in range(self.calls)]


LOST = "interrupted"
UNSURE = "It may or may not have taken effect"
ONCE = {"reserve": 1, "charge": 1, "mail": 1}
CASES = (
    Case("charge", "before", {}, LOST, UNSURE),
    Case("charge", "after", {"charge": 1}, LOST, UNSURE),
    Case("charge", "after", {"charge": 1}, LOST, UNSURE, calls=2),
    Case("asked", "before", {"charge": 1}, words="charge effect_", verified=("not_done",)),
    Case("asked", "after", {"charge": 1}, words="found effect_", verified=("done",)),
    Case("asked", "before", {"charge": 1}, words="charge effect_", verified=("not_done",) * 2, calls=2),
    Case("failing", "after", {"charge": 1}, LOST, UNSURE, verified=("unknown",)),
    Case("hanging", "after", {"charge": 1}, LOST, UNSURE, verified=("unknown",)),
    Case("guessing", "after", {"charge": 1}, LOST, UNSURE, verified=("unknown",)),
    Case("clueless", "after", {"charge": 1}, LOST, UNSURE, verified=("unknown",)),
    Case("order", "begin", {}, LOST, UNSURE),
    Case("resumable", "begin", ONCE),
    Case("order", "between", ONCE),
    Case("order", "between", ONCE, calls=2),
    Case("order", "reserve", {"reserve": 1}, LOST, "Steps that had begun: reserve."),
    Case("order", "charge", {"reserve": 1, "charge": 1}, LOST, "Steps that are done: reserve."),
    Case("order", "charge", {**ONCE, "charge": 2}, how="idempotent"),
    Case("order", "charge", ONCE, words="found effect_", how="verified"),
    Case("order", "mail", ONCE, LOST, "Steps that had begun: mail."),
)


def test_each_case_has_its_own_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


async def _begin(http: httpx.AsyncClient, case: Case) -> Talk:
    talk = await new_talk(http, harness_name="base", capabilities=[{"ref": "effects"}])
    calls = [call(case.tool, each, hang=case.hang, how=case.how) for each in case.ids]
    await talk.say(script({"tool_calls": calls}, {"text": "Done."}))
    return talk


async def test_what_a_killed_tool_had_done_is_looked_up_continued_or_said_to_be_unknown(
    database_url: str, tmp_path: Path
) -> None:
    server = EffectsServer(tmp_path / "data", database_url=database_url)
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        talks = [(case, await _begin(http, case)) for case in CASES]

        async def all_hang() -> bool:
            return server.hanging() == {each for case in CASES for each in case.ids}

        await when(all_hang)
        await server.restart()
        seen: list[str] = []
        for case, talk in talks:
            await talk.logged_until("session.idled")
            seen += _check(case, await talk.events(), server.effects())
        assert len(set(seen)) == len(seen), "two calls have the same key"


def _check(case: Case, events: list[Json], effects: dict[str, list[str]]) -> list[str]:
    """Check one session; returns the keys of its calls."""
    keys = {
        event["data"]["tool_call"]["id"]: event["data"]["effect_key"]
        for event in events
        if event["type"] == "tool.started"
    }
    assert list(keys) == case.ids
    ended = {
        event["data"]["tool_call_id"]: event["data"] for event in events if event["type"] == "tool.completed"
    }
    assert list(ended) == case.ids
    for call_id, data in ended.items():
        said = data.get("error") or data["result"][0]["text"]
        assert data["status"] == case.status, (case, data)
        assert data.get("outcome_unknown", False) == (case.status == LOST), (case, data)
        assert case.words in said, (case, data)
        if case.status != LOST and case.tool in {"order", "resumable"}:
            assert [text.split()[1] for text in json.loads(said)] == [
                part_key(keys[call_id], name) for name in ONCE
            ]
        elif case.status != LOST:
            assert said.split()[1] == keys[call_id]
        assert _done(case, keys[call_id], effects) == case.effects, (case, data)
    verified = [event["data"]["outcome"] for event in events if event["type"] == "tool.verified"]
    assert tuple(verified) == case.verified, case
    return list(keys.values())


def _done(case: Case, key: str, effects: dict[str, list[str]]) -> dict[str, int]:
    names = {part_key(key, name): name for name in ONCE} | {key: "charge"}
    return {name: len(effects[each]) for each, name in names.items() if each in effects}
