"""Schedules of trees of sessions: sub-agents, with injections at any point of any of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

from perdure.app.approvals import submit_approvals
from perdure.app.messages import post_message
from perdure.app.session_ends import cancel_turn, delete_session
from perdure.app.session_marks import archive_session
from perdure.app.task_news import deliver
from perdure.domain.errors import Conflict, InvalidInput, NotFound, PerdureError, Unavailable
from perdure.domain.inbox import Decider
from perdure.domain.messages import CreateMessage, InputMessage, TextPart
from perdure.domain.tools import ApprovalDecision, SubmitApprovals
from perdure.domain.turn import Idle, fold, parked_calls
from perdure.store.queue import Job
from perdure.store.sessions import SessionRow
from tests.simulation.client import Client
from tests.simulation.injections import GENTLE, LATE, Injections, sweep
from tests.simulation.model import message_text
from tests.simulation.scenarios import ONE_TURN, TEXT, Scenario, Step
from tests.simulation.schedule import PATIENCE, Listed, Schedule, at_rest
from tests.simulation.tree_checks import check_tree
from tests.simulation.world import LATE_WRITES, Crash, Plan, Process, World

Call = tuple[str, Any]


def spawn(name: str, script: int, **more: Any) -> Call:
    """A call that begins a sub-agent, which plays a script."""
    return "spawn_agent", {"name": name, "instructions": message_text(0, script), **more}


def background(name: str, script: int, **more: Any) -> Call:
    """As `spawn`, and the call does not wait."""
    return spawn(name, script, mode="background", **more)


def _tree(
    name: str,
    *scripts: tuple[Step, ...],
    actions: tuple[str, ...] = ONE_TURN,
    approvals: bool = False,
) -> Scenario:
    return Scenario(name, scripts, actions, tree=True, approvals=approvals)


def _step(*calls: Call, seconds: float = 0.0) -> Step:
    return Step(calls, seconds=seconds)


def beside(tool: str, seconds: float) -> Call:
    """A call of a tool that runs in the background."""
    return tool, {"seconds": seconds, "run_in_background": True}


LOOK: Call = ("look", {})
SLOW = Step(seconds=20.0)
TREES = (
    _tree("foreground", (_step(spawn("a", 1)), TEXT), (_step(LOOK), TEXT)),
    _tree("side by side", (_step(spawn("a", 1), spawn("b", 1), LOOK), TEXT), (TEXT,)),
    _tree("wake", (_step(background("a", 1)), TEXT), (Step(seconds=3.0),)),
    _tree("steer", (_step(background("a", 1)), Step(seconds=3.0), TEXT), (_step(LOOK), TEXT)),
    _tree(
        "wait for all",
        (_step(background("a", 1), background("b", 2)), _step(("wait_tasks", {})), TEXT),
        (Step(seconds=2.0),),
        (_step(LOOK), TEXT),
    ),
    _tree(
        "wait for any",
        (
            _step(background("a", 1), background("b", 2)),
            _step(("wait_tasks", {"until": "any", "timeout": 5.0}), ("wait_tasks", {"timeout": 9.0})),
            TEXT,
        ),
        (Step(seconds=2.0),),
        (Step(seconds=7.0),),
    ),
    _tree(
        "three levels",
        (_step(spawn("a", 1), background("x", 3)), TEXT),
        (_step(spawn("b", 2), background("y", 3)), TEXT),
        (_step(spawn("c", 3)), TEXT),
        (_step(spawn("too deep", 3)), TEXT),
    ),
    _tree("failure", (_step(spawn("a", 1), background("b", 1)), TEXT), (Step(failures=-1),)),
    _tree(
        "time limit",
        (_step(spawn("a", 1, time_limit=5.0), background("b", 1, time_limit=4)), TEXT),
        (SLOW,),
        actions=("post 0", "wait 6", "child sweep", "rest"),
    ),
    _tree(
        "approval",
        (_step(spawn("a", 1), background("b", 1, wake_policy="on_activity")), TEXT),
        (_step(("once", {})), TEXT),
        actions=(
            *("post 0", "rest", "decide allow", "decide allow", "rest"),
            *("child decide", "rest", "child decide", "rest", "child decide", "rest"),
        ),
        approvals=True,
    ),
    _tree(
        "withdrawn",
        (_step(spawn("a", 1)), TEXT),
        (Step(seconds=4.0), TEXT),
        (TEXT,),
        actions=("post 0", "wait 1", "post 2", "rest"),
    ),
    _tree(
        "cancel",
        (_step(spawn("a", 1), background("b", 2)), TEXT),
        (_step(spawn("c", 2)), TEXT),
        (SLOW,),
        actions=("post 0", "wait 1", "cancel", "rest", "post 2", "rest"),
    ),
    _tree(
        "delete",
        (_step(spawn("a", 1), background("b", 2)), TEXT),
        (_step(spawn("c", 2)), TEXT),
        (SLOW,),
        actions=("post 0", "wait 1", "delete", "rest"),
    ),
    _tree(
        "child cancelled",
        (_step(spawn("a", 1), background("b", 1)), TEXT),
        (SLOW,),
        actions=("post 0", "wait 1", "child cancel", "rest"),
    ),
    _tree(
        "child deleted",
        (_step(spawn("a", 1), background("b", 1)), TEXT),
        (SLOW,),
        actions=("post 0", "wait 1", "child delete", "wait 1", "child delete", "rest"),
    ),
    _tree(
        "child steered",
        (_step(spawn("a", 1)), TEXT),
        (Step(seconds=3.0), TEXT),
        actions=("post 0", "wait 1", "child post", "rest", "child post", "rest"),
    ),
    _tree(
        "messages",
        (
            _step(background("a", 1, wake_policy="on_activity")),
            _step(("message_task", {"task_id": "the first", "message": "hurry"})),
            _step(("get_task", {"task_id": "the first"}), ("list_tasks", {})),
            _step(("cancel_task", {"task_id": "the first"})),
            TEXT,
        ),
        (
            _step(("report_to_parent", {"message": "begun", "progress": {"current": 1}})),
            Step(seconds=2.0),
            TEXT,
        ),
    ),
    _tree(
        "tools",
        (
            _step(beside("once", 3.0), beside("again", 1.0)),
            _step(beside("again", 2.0), ("wait_tasks", {})),
            TEXT,
        ),
    ),
    _tree(
        "tools cancelled",
        (_step(beside("once", 4.0), beside("again", 4.0), spawn("a", 1)), TEXT),
        (_step(beside("again", 3.0)), TEXT),
        (TEXT,),
        actions=("post 0", "wait 1", "cancel", "rest", "post 2", "rest"),
    ),
    _tree(
        "interrupt",
        (_step(spawn("a", 1)), TEXT),
        (SLOW,),
        (TEXT,),
        actions=("post 0", "wait 1", "interrupt 2", "rest"),
    ),
)


class TreeInjections(Injections):
    """The injections into one tree; some of them happen to a sub-agent's session, chosen at random."""

    async def _happen(self, process: Process, where: str, kind: str) -> None:
        await TREE_KINDS[kind](self, process, where)

    async def child_wake(self, process: Process, where: str) -> None:
        if (child := pick(self._world)) is not None:
            process.queue.put(Job(self._world.store.caller.organization_id, child))  # type: ignore[arg-type]

    async def child_cancel(self, process: Process, where: str) -> None:
        await act(self._world, "cancel", process)

    async def child_delete(self, process: Process, where: str) -> None:
        await act(self._world, "delete", process)

    async def child_archive(self, process: Process, where: str) -> None:
        await act(self._world, "archive", process)

    async def child_post(self, process: Process, where: str) -> None:
        await act(self._world, "post", process)

    async def child_decide(self, process: Process, where: str) -> None:
        await act(self._world, "decide", process)

    async def redeliver(self, process: Process, where: str) -> None:
        """What a child has to say is delivered again, or too early."""
        await act(self._world, "deliver", process)

    async def redeliver_elsewhere(self, process: Process, where: str) -> None:
        await act(self._world, "deliver", self._another(process))

    async def redeliver_late(self, process: Process, where: str) -> None:
        """A delivery reads what there is to hear, and takes its time to write it down."""
        other, child = self._another(process), pick(self._world)
        if child is not None:
            other.spawn(_deliver_late(other, child, self._world.rng.choice((0.5, 2.0, 6.0))))

    async def sweep_elsewhere(self, process: Process, where: str) -> None:
        """Another process sees to tasks at the same time."""
        other = self._another(process)
        other.spawn(sweep_tasks(other))


_COMMON = (
    *("crash", "stop", "fault", "stall", "freeze", "overtake", "wake", "message", "message_elsewhere"),
    *("cancel", "cancel_elsewhere", "delete", "linger"),
)
TREE_KINDS: dict[str, Callable[[Injections, Process, str], Awaitable[None]]] = {
    **{name: getattr(Injections, name) for name in _COMMON},
    **{name: method for name, method in vars(TreeInjections).items() if not name.startswith("_")},
}
TREE_GENTLE = GENTLE.intersection(_COMMON) | (TREE_KINDS.keys() - set(_COMMON))


def pick(world: World) -> str | None:
    """A sub-agent's session, or None if there is none."""
    below = world.store.below(world.session_id)
    return world.rng.choice(below) if below else None


async def act(world: World, what: str, process: Process | None = None) -> None:
    """Have a client do something to a sub-agent's session."""
    process = process or (world.rng.choice(world.live()) if world.live() else world.start())
    child = pick(world)
    if child is None:
        return
    task = process.spawn(_act(world, what, child, process))
    await asyncio.wait([task])


async def _act(world: World, what: str, child: Any, process: Process) -> None:
    app, caller, error = process.app, world.store.caller, None
    try:
        match what:
            case "cancel":
                await cancel_turn(app, caller, child)
            case "delete":
                await delete_session(app, caller, child)
            case "archive":
                await archive_session(app, caller, child, archived=True)
            case "post":
                content = (TextPart(message_text(7, None)),)
                await post_message(app, caller, child, CreateMessage(InputMessage(content)))
            case "decide":
                await _decide(world, process, child)
            case "deliver":
                await deliver(app, child)
            case "sweep":
                await sweep_tasks(process)
    except (Crash, Unavailable, NotFound, Conflict, InvalidInput, asyncio.CancelledError) as raised:
        error = raised
    except BaseException as raised:  # noqa: BLE001 - judged here
        world.blame(f"the request {what} failed: {raised!r}")
    world.note(f"{process.name} child {what} {child[-4:]}: {'done' if error is None else repr(error)}")


async def _deliver_late(process: Process, child: Any, seconds: float) -> None:
    LATE_WRITES.set(seconds)
    with contextlib.suppress(PerdureError):
        await deliver(process.app, child)


async def _decide(world: World, process: Process, child: Any) -> None:
    row = world.store.row(child)
    state = fold(world.store.events(child)[row.turn_after :], Idle(head=row.turn_after))
    decision = world.rng.choice(("allow", "reject"))
    made = tuple(ApprovalDecision(call.id, decision) for call in parked_calls(state, "approval")[:1])
    if made:
        await submit_approvals(process.app, Decider(world.store.caller), child, SubmitApprovals(made))


async def sweep_tasks(process: Process) -> None:
    """Both sweeps, as the server's own loops do them."""
    await sweep(process)
    with contextlib.suppress(PerdureError):
        await process.task_sweep.once()


class TreeDrawn:
    """A plan with injections drawn at random, up to a drawn number of them."""

    def __init__(self, rng: random.Random, kinds: tuple[str, ...] = ()) -> None:
        self._rng = rng
        self._rate = rng.choice((0.01, 0.02, 0.05, 0.1, 0.3))
        self._left = rng.choice((1, 2, 3, 5, 8, 13))
        self._kinds = [*kinds] or ["linger", *rng.sample(sorted(TREE_KINDS), k=rng.randint(2, 8))]
        self.gentle = TREE_GENTLE.issuperset(self._kinds)

    def at(self, number: int, where: str) -> str | None:
        if self._left == 0 or self._rng.random() >= self._rate:
            return None
        self._left -= 1
        return self._rng.choice(self._kinds)


class TreeSchedule(Schedule):
    """A schedule of a tree."""

    replay = "tests/simulation/test_trees.py"

    async def _live(self, world: World) -> None:
        client = Client(world)
        TreeInjections(world, client)
        await self._open(world, client)
        for action in self.scenario.actions:
            verb, _, what = action.partition(" ")
            if verb == "child":
                await act(world, what)
            else:
                await self._do(world, client, *action.split())
        await self._rest(world)
        await self._expire(world)
        world.counting = False
        undisturbed = isinstance(self.plan, Listed) and not self.plan.injections
        check_tree(world, gentle=self.gentle, undisturbed=undisturbed)

    async def _rest(self, world: World) -> None:
        """Wait until all sessions of the tree are at rest, and nothing is left to deliver."""
        await world.loop.quiet()
        if self.gentle:
            self._blame_idlers(world)
        for _ in range(PATIENCE):
            if not world.live():
                process = world.start()
                process.spawn(sweep(process, stale_after=0))
                process.spawn(sweep_tasks(process))
                await world.loop.quiet()
                continue
            if tree_rests(world):
                return
            await asyncio.sleep(LATE)
            for process in world.live():
                process.spawn(sweep_tasks(process))
            await world.loop.quiet()
        world.blame(f"P4: the tree never gets to rest: {[row.status for row in rows_of(world)]}")

    def _blame_idlers(self, world: World) -> None:
        for row in rows_of(world):
            if row.deleted_at is None and row.status == "active" and not row.resting:
                world.blame("P4: nothing died, failed or stalled, but a session needs a sweep to continue")
            if row.deleted_at is None and row.ended is not None and not world.store.has_told(row):
                world.blame("P12: nothing died, failed or stalled, but a parent has not heard of an end")

    async def _expire(self, world: World) -> None:
        """Let every deadline pass at which a session is parked or a task's time is over."""
        for _ in range(PATIENCE):
            if world.violations:
                return
            waiting = [row for row in rows_of(world) if row.wake_at is not None and row.deleted_at is None]
            times = [row.wake_at or 0 for row in waiting]
            times += [
                task.deadline or 0
                for row in rows_of(world)
                if row.deleted_at is None
                for task in world.store.tasks(row.id)
                if task.finished_at is None
            ]
            if not times:
                return
            await asyncio.sleep(max(0, min(times) - world.now()) / 1_000_000 + 6)
            for process in world.live():
                process.spawn(sweep_tasks(process))
            await self._rest(world)


def rows_of(world: World) -> list[SessionRow]:
    """The sessions of the tree, the root first."""
    return [world.store.row(each) for each in (world.session_id, *world.store.below(world.session_id))]


def tree_rests(world: World) -> bool:
    """Whether nothing of the tree has anything to do now."""
    rows, now = rows_of(world), world.now()
    if not all(at_rest(row, now) for row in rows):
        return False
    if any(row.news is not None for row in rows):
        return False
    return not any(
        task.wish is not None or (task.finished_at is None and (task.deadline or now) < now)
        for row in rows
        for task in world.store.tasks(row.id)
        if row.deleted_at is None or task.wish is not None
    )


def drawn_tree(seed: int) -> TreeSchedule:
    """The schedule of a tree that is drawn with this seed."""
    rng = random.Random(seed)
    scenario, plan = rng.choice(TREES), TreeDrawn(rng)
    return TreeSchedule(scenario, plan, rng, f"tree {seed}", lossy=rng.random() < 0.3, gentle=plan.gentle)


def focused_tree(name: str, kinds: tuple[str, ...], seed: int) -> TreeSchedule:
    """A schedule of one scenario, with injections of these kinds alone."""
    rng = random.Random(seed)
    scenario, plan = next(each for each in TREES if each.name == name), TreeDrawn(rng, kinds)
    return TreeSchedule(scenario, plan, rng, f"{name} {seed}", lossy=False, gentle=False)


def listed_tree(scenario: Scenario, injections: dict[int, str]) -> TreeSchedule:
    """A schedule with these injections: kinds by the number of their point."""
    name = f"{scenario.name}:{','.join(f'{point}={kind}' for point, kind in injections.items())}"
    gentle = TREE_GENTLE.issuperset(injections.values())
    plan: Plan = Listed(injections)
    return TreeSchedule(scenario, plan, random.Random(name), name, lossy=False, gentle=gentle)


def named_tree(name: str) -> TreeSchedule:
    """The schedule with this name: `tree SEED`, or `scenario:point=kind,...`."""
    if name.startswith("tree "):
        return drawn_tree(int(name[5:]))
    scenario, _, rest = name.partition(":")
    found = next(each for each in TREES if each.name == scenario)
    pairs = (pair.partition("=") for pair in rest.split(",") if pair)
    return listed_tree(found, {int(point): kind for point, _, kind in pairs})
