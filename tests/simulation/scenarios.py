"""Scenarios: the model's scripts and the client's actions."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

CLIENT_TOOL = "ask_user"


@dataclass(frozen=True)
class Step:
    """One answer of the model.

    Attributes:
        calls: the tool calls that it requests: names and arguments.
        seconds: how long the model call takes.
        failures: the number of attempts that first fail with a transient error; -1: a permanent error.
        cut: the answer reaches its limit in the middle of the last call.
        wrong: the answer does not match the schema that is set for it.
        retry_after: seconds that the model asks to wait after a transient error.
        spare_failures: as `failures`, of the fallback model.
        empty: the first answer has no content.
    """

    calls: tuple[tuple[str, Any], ...] = ()
    seconds: float = 0.0
    failures: int = 0
    cut: bool = False
    wrong: bool = False
    retry_after: float = 1.0
    spare_failures: int = 0
    empty: bool = False


@dataclass(frozen=True)
class Scenario:
    """What happens to a session.

    Attributes:
        scripts: the model's answers; each message names the script that it plays.
        actions: the client's actions: `post K` (a message that plays script K), `queue K`, `interrupt K` and
            `reject K` (the same, with `when_busy`), `rest` (wait until the session is at rest), `wait S`
            (seconds), `answer`, `call_back`, `decide allow`, `decide edit` (allow with other arguments),
            `decide reject`, `link allow`, `link reject`, `cancel`, `delete`, `patch`, `address K` (post a
            message to the second agent).
        repeat_ids: the model uses the same call ids in every answer.
        approvals: calls of tools that change something require approval.
        window: tokens of history in a prompt; None: no limit.
        compaction: the older part of the history is summarized when it fills the window.
        typed: messages that begin turns set a schema for the final answer.
        fallback: the session has a fallback model.
        tree: the session may begin sub-agents.
        budget: the tokens that the session's budget has; the organization and the user have plenty.
        history: the session has an agent, which hands off to another one with this history; both take part.
    """

    name: str
    scripts: tuple[tuple[Step, ...], ...]
    actions: tuple[str, ...]
    max_iterations: int | None = None
    repeat_ids: bool = False
    approvals: bool = False
    window: int | None = None
    compaction: bool = False
    typed: bool = False
    fallback: bool = False
    tree: bool = False
    history: str | None = None
    budget: int | None = None


def _calls(*names: str) -> Step:
    return Step(tuple((name, {}) for name in names))


EDITED = 0.25
"""The seconds that a person writes into a call's arguments; no model does."""
DRAWN = ("answer", "decide allow", "decide edit", "decide reject", "link allow", "cancel", "patch")
TEXT = Step()
CUT = Step((("once", {}), ("look", '{"seconds": ')), cut=True)
WRONG = Step(wrong=True)
ONE_TURN = ("post 0", "rest")

SCENARIOS = (
    Scenario("text", ((TEXT,),), ONE_TURN),
    Scenario("tool", ((_calls("once"), TEXT),), ONE_TURN),
    Scenario(
        "parallel",
        (
            (
                Step(
                    (
                        ("once", {"seconds": 2.0}),
                        ("again", {"seconds": 1.0}),
                        ("look", {}),
                        ("once", {"seconds": 3.0}),
                    )
                ),
                TEXT,
            ),
        ),
        ONE_TURN,
    ),
    Scenario("rounds", ((_calls("once"), _calls("once", "again"), TEXT),), ONE_TURN, repeat_ids=True),
    Scenario("retries", ((Step(failures=2), TEXT),), ONE_TURN),
    Scenario(
        "fallback",
        ((_calls("once"), Step((("once", {}),), failures=2), TEXT), (Step(failures=1, retry_after=20.0),)),
        ("post 0", "rest", "post 1", "rest"),
        fallback=True,
    ),
    Scenario(
        "fallbacks",
        ((Step(failures=1, retry_after=300.0, spare_failures=5), TEXT), (TEXT,)),
        ("post 0", "rest", "queue 1", "rest"),
        fallback=True,
    ),
    Scenario("rate limit", ((_calls("once"), Step(failures=1, retry_after=300.0)),), ONE_TURN),
    Scenario(
        "rate limits",
        ((Step(failures=2, retry_after=300.0), TEXT), (TEXT,), (Step(failures=1, retry_after=100.0),)),
        (
            *("post 0", "rest", "post 1", "rest", "queue 2", "rest", "wait 301", "rest"),
            *("post 2", "rest", "cancel", "interrupt 2", "rest", "interrupt 1", "rest"),
        ),
    ),
    Scenario("failure", ((Step(failures=-1),), (TEXT,)), ("post 0", "post 1", "rest")),
    Scenario("client", ((_calls(CLIENT_TOOL, "once"), TEXT),), ("post 0", "rest", "answer", "rest")),
    Scenario("expiry", ((_calls(CLIENT_TOOL, CLIENT_TOOL), TEXT),), ("post 0", "rest", "wait 301", "rest")),
    Scenario("superseded", ((_calls(CLIENT_TOOL), TEXT), (TEXT,)), ("post 0", "rest", "post 1", "rest")),
    Scenario(
        "trouble",
        (
            (
                Step(
                    (
                        ("refuse", {}),
                        ("burst", {}),
                        ("once", {"seconds": 9.0}),
                        ("nowhere", {}),
                        ("look", {"seconds": "x"}),
                    )
                ),
                TEXT,
            ),
        ),
        ONE_TURN,
    ),
    Scenario("cut", ((CUT, TEXT), (CUT, CUT, CUT, TEXT)), ("post 0", "rest", "post 1", "rest")),
    Scenario(
        "steering",
        ((Step(seconds=3.0), TEXT), (TEXT,)),
        ("post 0", "wait 1", "post 1", "rest", "post 1", "rest"),
    ),
    Scenario(
        "cancelling",
        ((Step(seconds=20.0),), (Step((("once", {"seconds": 4.0}), ("look", {}))), TEXT), (TEXT,)),
        ("post 0", "wait 1", "cancel", "post 1", "wait 1", "cancel", "post 2", "rest"),
    ),
    Scenario(
        "queue",
        ((Step(seconds=3.0), _calls("once"), TEXT), (Step(seconds=1.0),), (TEXT,)),
        ("post 0", "wait 1", "queue 1", "queue 2", "post 2", "rest", "queue 1", "rest"),
    ),
    Scenario(
        "queue parked",
        ((_calls(CLIENT_TOOL), TEXT), (_calls("later"), TEXT), (TEXT,)),
        ("post 0", "rest", "queue 1", "queue 2", "rest", "answer", "rest", "queue 2", "call_back", "rest"),
    ),
    Scenario(
        "queue cancelled",
        ((Step(seconds=20.0),), (Step(seconds=9.0),), (_calls(CLIENT_TOOL),)),
        (
            *("post 0", "wait 1", "queue 1", "queue 2", "queue 1", "cancel", "wait 1", "cancel", "rest"),
            *("cancel", "rest"),
        ),
    ),
    Scenario(
        "interrupt",
        ((Step((("once", {"seconds": 9.0}),)),), (Step(seconds=9.0),), (TEXT,)),
        ("post 0", "wait 1", "queue 2", "interrupt 1", "wait 1", "reject 2", "interrupt 2", "rest"),
    ),
    Scenario(
        "limit",
        ((_calls("look"), _calls("look"), _calls("look"), TEXT), (TEXT,)),
        ("post 0", "rest", "post 1", "rest"),
        2,
    ),
    Scenario(
        "approval",
        ((_calls("once", "look", "again"), TEXT),),
        ("post 0", "rest", "decide allow", "decide reject", "rest"),
        approvals=True,
    ),
    Scenario(
        "edited",
        ((_calls("once", "again"), TEXT),),
        ("post 0", "rest", "decide edit", "decide edit", "rest"),
        repeat_ids=True,
        approvals=True,
    ),
    Scenario(
        "linked",
        ((_calls("once", "again"), TEXT),),
        ("post 0", "rest", "link allow", "link reject", "rest", "link allow"),
        repeat_ids=True,
        approvals=True,
    ),
    Scenario(
        "compaction", ((_calls(*["look"] * 6), TEXT),), ("post 0", "rest") * 4, window=260, compaction=True
    ),
    Scenario("callback", ((_calls("later"), TEXT),), ("post 0", "rest", "call_back", "rest")),
    Scenario(
        "callbacks",
        (
            (
                Step((("later", {"slowly": 2.0}), ("once", {"seconds": 3.0}), ("later_again", {}))),
                _calls("later", CLIENT_TOOL),
                TEXT,
            ),
        ),
        (
            *("post 0", "wait 1", "call_back", "call_back", "rest", "call_back", "call_back", "rest"),
            *("call_back", "call_back", "answer", "call_back", "rest"),
        ),
        repeat_ids=True,
    ),
    Scenario("late", ((_calls("later"), TEXT),), ("post 0", "rest", "wait 401", "call_back", "rest")),
    Scenario(
        "background",
        ((_calls("later", "later"), TEXT), (TEXT,)),
        ("post 0", "rest", "post 1", "rest", "call_back", "call_back", "rest", "call_back", "rest"),
    ),
    Scenario(
        "abandoned",
        ((_calls("later"), TEXT), (Step(seconds=20.0),)),
        ("post 0", "rest", "post 1", "wait 1", "cancel", "call_back", "rest"),
    ),
    Scenario(
        "uncalled",
        ((_calls("later", "once"), TEXT), (_calls("later"), TEXT)),
        ("post 0", "rest", "cancel", "call_back", "post 1", "rest", "call_back", "delete", "call_back"),
    ),
    Scenario("asked", ((Step((("asked", {}), ("asked", {}))), TEXT),), ONE_TURN, repeat_ids=True),
    Scenario("steps", ((_calls("order", "once", "order"), TEXT),), ONE_TURN),
    Scenario("posted", ((_calls("posted", "once"), TEXT),), ("post 0", "rest", "call_back", "rest")),
    Scenario(
        "deleted",
        ((Step((("once", {"seconds": 2.0}),)), TEXT),),
        ("post 0", "wait 1", "patch", "delete", "rest"),
    ),
)

TYPED = (
    Scenario("corrected", ((_calls("once"), WRONG, WRONG, TEXT),), ONE_TURN, typed=True),
    Scenario(
        "not corrected",
        ((WRONG, WRONG, WRONG, TEXT), (TEXT,)),
        ("post 0", "rest", "post 1", "rest"),
        typed=True,
    ),
    Scenario(
        "corrected and compacted",
        ((_calls(*["look"] * 6), WRONG, TEXT),),
        ("post 0", "rest") * 3,
        window=260,
        compaction=True,
        typed=True,
    ),
    Scenario(
        "corrected and steered",
        ((WRONG, Step(wrong=True, seconds=3.0), TEXT), (WRONG, TEXT)),
        ("post 0", "wait 1", "post 1", "queue 1", "rest"),
        typed=True,
    ),
)
"""Those whose final answers have a schema. They are played with an injection at each point, and not drawn."""

FIRST, SECOND = "first", "second"
"""The names of the two agents that hand off to each other."""


def _hand_off(agent: str, *before: tuple[str, Any], summary: str | None = None) -> Step:
    history = {"agent": f"{agent}-full"}
    if summary is not None:
        history = {"agent": f"{agent}-summary", "summary": summary}
    return Step((*before, ("handoff_to_agent", history), ("look", {"seconds": 1.0})))


_SLOW = ("once", {"seconds": 2.0})
HANDED = (
    Scenario(
        "handoff",
        ((_hand_off(SECOND, _SLOW), _hand_off(FIRST), TEXT),),
        ONE_TURN,
        repeat_ids=True,
        history="full",
    ),
    Scenario(
        "handoff with a summary",
        ((TEXT,), (_hand_off(SECOND, _SLOW, summary="summary of it"),)),
        ("post 0", "rest", "post 1", "rest"),
        history="summary",
    ),
    Scenario(
        "handoff with approvals",
        ((_hand_off(SECOND, ("once", {})), TEXT),),
        ("post 0", "rest", "decide allow", "decide allow", "rest"),
        approvals=True,
        history="full",
    ),
    Scenario(
        "addressed",
        ((_hand_off(FIRST), TEXT), (TEXT,)),
        ("address 0", "rest", "post 1", "rest"),
        history="full",
    ),
)
"""Those with two agents. They are played at each point, and not drawn."""

ALL = (*SCENARIOS, *TYPED, *HANDED)


def by_name(name: str) -> Scenario:
    """The scenario with this name."""
    return next(scenario for scenario in ALL if scenario.name == name)


def draw_scenario(rng: random.Random) -> Scenario:
    """Draw a scenario at random."""
    if rng.random() < 0.3:
        return rng.choice(SCENARIOS)
    scripts = tuple(_draw_script(rng) for _ in range(rng.randint(1, 3)))
    actions: list[str] = []
    for _ in range(rng.randint(1, 3)):
        actions.append(f"post {rng.randrange(len(scripts))}")
        if rng.random() < 0.6:
            actions.append(rng.choice(("rest", "rest", "wait 0.1", "wait 2", "wait 12", "wait 301")))
        if rng.random() < 0.3:
            actions.append(rng.choice(DRAWN))
        if rng.random() < 0.4:
            actions += ["call_back"] * rng.randint(1, 3)
    if rng.random() < 0.3:
        policies = ("post", "queue", "queue", "interrupt", "reject")
        actions = [
            action.replace("post", rng.choice(policies)) if index else action
            for index, action in enumerate(actions)
        ]
    if rng.random() < 0.05:
        actions.append("delete")
    window = rng.choice((None, None, None, None, 40, 260))
    return Scenario(
        "drawn",
        scripts,
        (*actions, "rest"),
        max_iterations=rng.choice((None, None, None, 1, 2)),
        repeat_ids=rng.random() < 0.25,
        approvals=rng.random() < 0.2,
        window=window,
        compaction=window == 260,
        fallback=rng.random() < 0.25,
    )


def _draw_script(rng: random.Random) -> tuple[Step, ...]:
    steps = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        names = rng.choices(
            (
                *("once", "again", "look", "refuse", "burst", CLIENT_TOOL, "nowhere"),
                *("later", "later_again", "asked", "order"),
            ),
            (6, 3, 3, 1, 1, 2, 1, 2, 1, 2, 3),
            k=rng.randint(1, 4),
        )
        calls = tuple(
            (name, {"seconds": rng.choice((0.5, 2.0, 9.0))} if rng.random() < 0.3 else {}) for name in names
        )
        limit = rng.choice((1.0, 1.0, 1.0, 30.0, 300.0))
        failures = rng.choice((0, 0, 0, 0, 1, 2))
        steps.append(Step(calls, rng.choice((0, 0, 0, 1, 15)), failures, retry_after=limit))
    last = Step(seconds=rng.choice((0, 0, 0, 2, 30)), failures=rng.choice((0, 0, 0, 0, 0, 1, -1)))
    return (*steps, last)
