"""The world of one schedule: its time and processes, what the client knows, and the tools' effects."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from perdure.app.context import App
from perdure.app.task_news import deliver
from perdure.domain.errors import InvalidInput, ModelError, Unavailable
from perdure.domain.events import Event
from perdure.domain.ids import BudgetId, Prefix, SessionId
from perdure.domain.messages import JsonObject, Message, Usage
from perdure.domain.turn import Calling, Idle, TurnState, fold
from perdure.engine.context import Engine, Policy
from perdure.engine.conversation_cache import ConversationCache
from perdure.llm.driver import ModelRequest
from perdure.store.bus import LocalBus, Signal, Stop
from perdure.store.database import Body, T, Tx
from perdure.store.parked_turns import ParkedTurns
from perdure.store.queue import Job, LocalQueue
from perdure.store.sessions import SessionRow
from perdure.worker.background import BackgroundTools
from perdure.worker.budgets import BudgetSweep
from perdure.worker.sweep import Sweep
from perdure.worker.tasks import TaskSweep
from perdure.worker.worker import Worker
from tests.simulation.callbacks import KnownCallback, learn
from tests.simulation.consents import Consents, Promised
from tests.simulation.loop import VirtualLoop
from tests.simulation.model import ScriptedDriver
from tests.simulation.scenarios import Scenario
from tests.simulation.store import SIGNING_KEY, SimulatedDrivers, Store, Witness
from tests.simulation.tools import DELAY, HANDS

BEGIN = 1_800_000_000_000_000
"""The time at which every schedule begins, in microseconds since the Unix epoch."""


ENDLESS = 5000
"""Points after which a schedule does not end: the longest have a few hundred."""

_RUNNER: ContextVar[object] = ContextVar("runner", default=None)
"""The task of the runner that a task belongs to: the tools of a runner append as that runner."""


LATE_WRITES: ContextVar[float] = ContextVar("late writes", default=0.0)
"""Seconds that each write of a task takes longer."""


class Crash(BaseException):
    """Raised in the tasks of a process that has died, so that they do nothing more."""


class Plan(Protocol):
    """Decides what is injected at which point."""

    def at(self, number: int, where: str) -> str | None:
        """The kind of injection at the point with this number, or None."""
        ...


@dataclass
class ModelCall:
    """A call that reached the model.

    Attributes:
        head: the log's head at that time.
        current: whether the runner held the session at that time.
    """

    messages: tuple[Message, ...]
    head: int
    current: bool
    model: str


@dataclass
class Effect:
    """An effect of a tool, with its key and its process; `head` and `current` are as in `ModelCall`."""

    call_id: str
    tool: str
    word: str
    head: int
    current: bool
    key: str
    worker: str


@dataclass
class Told:
    """What the client knows: the sequences of acknowledged messages by id, and the outcome of a deletion."""

    messages: dict[str, int] = field(default_factory=dict)
    deleted: bool = False
    deletion_tried: bool = False


class World:
    """One schedule's world."""

    def __init__(
        self, loop: VirtualLoop, store: Store, scenario: Scenario, plan: Plan, rng: random.Random
    ) -> None:
        self.loop, self.store, self.scenario, self.plan, self.rng = loop, store, scenario, plan, rng
        self.processes: list[Process] = []
        self.session_id = ""
        self.witness: Witness | None = None
        self.witnesses: dict[str, Witness] = {}
        """Those of the sub-agents' sessions, by id."""
        self.told = Told()
        self.calls: list[ModelCall] = []
        self.summaries: list[str] = []
        """The text that the model summarized, for each summary."""
        self.attempts: dict[tuple[str, int, str], int] = {}
        self.effects: list[Effect] = []
        self.received: list[tuple[str, JsonObject]] = []
        """The keys and arguments of calls, as their tools got them."""
        self.callbacks: list[KnownCallback] = []
        self.consents = Consents()
        self.sent: dict[str, tuple[float, str]] = {}
        """By key: the first effect that others see, and from when on."""
        self.violations: list[str] = []
        self.trace: list[str] = []
        self.passed = 0
        self._outside: list[asyncio.Task[None]] = []
        self.lossy = False
        self.unplugged = 0
        """How often from now on the creation of a driver fails."""
        self.skews: list[int] = []
        self.budgets: list[BudgetId] = []
        """Those of the organization, the user and the session, if the scenario has any."""
        self.meter: Any = None
        """The witness of their money."""
        self.empty: dict[str, Usage] = {}
        """By session: what its last empty answer used."""
        self.parts: dict[tuple[int, int], list[int]] = {}
        """By the tokens of an answer that was asked for twice: the tokens of each."""
        self.counting = False
        self.inject: Callable[[Process, str, str], Coroutine[Any, Any, None]] | None = None
        loop.set_task_factory(_owned_task)  # type: ignore[arg-type]
        loop.set_exception_handler(self._on_unhandled)

    def now(self) -> int:
        return BEGIN + round(self.loop.now * 1_000_000)

    def blame(self, what: str) -> None:
        self.note(f"VIOLATION {what}")
        self.violations.append(what)

    def note(self, what: str) -> None:
        self.trace.append(f"{self.loop.now:9.3f} {what}")

    def new_id(self, prefix: Prefix) -> str:
        return f"{prefix}_{self.rng.getrandbits(128):032x}"

    def start(self) -> Process:
        """Start another process."""
        process = Process(self, f"P{len(self.processes) + 1}")
        self.processes.append(process)
        process.spawn(process.queue.start(process.worker.handle))
        return process

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task that belongs to no process."""
        task = self.loop.create_task(work, context=contextvars.Context())
        self._outside.append(task)

    def live(self) -> list[Process]:
        """The processes that take requests and jobs."""
        return [process for process in self.processes if process.alive and not process.stopping]

    def discover(self) -> None:
        """Watch the sessions that have been begun since the last commit."""
        if self.scenario.tree and self.session_id:
            for session_id in self.store.below(self.session_id):
                if session_id not in self.witnesses:
                    self.witnesses[session_id] = Witness(self.store, session_id, self.blame)

    def log(self) -> list[Event]:
        return self.store.events(self.session_id)

    def is_current(self, process: Process) -> bool:
        """Whether this process holds the session, according to itself and to the database."""
        epoch = process.engine.claimed_epochs.get(self.session_id)
        return epoch is not None and epoch == self.store.row(self.session_id).epoch

    def begin_call(self, process: Process, request: ModelRequest) -> int:
        """Record a call to the model; returns its number."""
        self.calls.append(
            ModelCall(
                tuple(request.messages),
                self.store.row(self.session_id).head,
                self.is_current(process),
                request.model,
            )
        )
        return len(self.calls) - 1

    def _on_unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, Crash):
            self.blame(f"{context.get('message')}: {error!r}")


class Process:
    """A server process: the real engine, worker, sweep, queue and bus, on ports that can fail."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name, self.alive, self.stopping = world, name, True, False
        self.skew = world.skews.pop() if world.skews else 0
        self.thawed: asyncio.Future[None] | None = None
        self.tasks: dict[asyncio.Task[Any], None] = {}
        bus, queue, store, turns = _Bus(world), _Queue(self), world.store, _Turns(world)
        self.driver = ScriptedDriver(self)
        policy = Policy(history_tokens=world.scenario.window or 100_000)
        self.engine = Engine(
            _Port(self, "engine"),
            queue,
            bus,
            store.registry,
            store.vault,
            self.driver_for,
            ConversationCache(),
            self,
            {},
            SIGNING_KEY,
            policy,
            world.new_id,
            lambda: 0.5,
            turns=turns,
        )
        self.app = App(
            _Port(self, "app"),
            queue,
            bus,
            store.vault,
            self.now,
            world.new_id,
            registry=store.registry,
            drivers=SimulatedDrivers(),
            callback_key=SIGNING_KEY,
            turns=turns,
        )
        self.background = BackgroundTools(self.engine, self.app)
        self.worker = Worker(self.engine, partial(deliver, self.app), self.background)
        self.sweep = Sweep(self.engine, self.worker)
        self.task_sweep = TaskSweep(self.app, self)
        self.budget_sweep = BudgetSweep(self.app, self)
        self.queue = queue

    def now(self) -> int:
        return self.world.now() + self.skew

    def elapsed(self) -> float:
        return self.world.loop.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    pause = sleep

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a task in this process."""
        context = contextvars.copy_context()
        context.run(HANDS.set, self)
        context.run(_RUNNER.set, None)
        return self.world.loop.create_task(work, context=context)

    def kill(self) -> None:
        """Kill the process: its tasks do nothing more, not even clean up."""
        self.alive = False
        self.world.note(f"{self.name} dies")
        here = asyncio.current_task()
        for task in list(self.tasks):
            if task is not here:
                task.cancel()

    async def point(self, where: str) -> None:
        """Pass a point, at which the plan may inject something."""
        await self._check()
        world = self.world
        if not world.counting or world.inject is None:
            return
        number = world.passed
        world.passed += 1
        if number == ENDLESS:
            world.blame("P4: the work never ends")
        if number >= ENDLESS:
            self.kill()
            raise Crash
        kind = world.plan.at(number, where)
        world.note(f"{self.name} {number} {where}{' ' + kind if kind else ''}")
        if kind is not None:
            await world.inject(self, where, kind)
            await self._check()

    async def _check(self) -> None:
        while self.alive and self.thawed is not None:
            await asyncio.wait([self.thawed])
        if not self.alive:
            raise Crash

    def fault(self, where: str) -> None:
        """Raise the error of a failure at this place."""
        if where.startswith("model."):
            raise ModelError("simulated", code="provider_unavailable", transient=True)
        if where.startswith("tool."):
            raise RuntimeError("simulated")
        raise Unavailable("simulated: the database is unavailable")

    def driver_for(self, row: object, secrets: object) -> ScriptedDriver:
        """The driver, or an error while the world is `unplugged`."""
        if self.world.unplugged:
            self.world.unplugged -= 1
            raise InvalidInput("simulated: these settings are invalid")
        return self.driver

    def touch_world(self, tool: str, call_id: str, key: str) -> str:
        world = self.world
        word = f"{tool} {len(world.effects)}"
        head = world.store.row(world.session_id).head
        worker = self.background._worker_id
        world.effects.append(Effect(call_id, tool, word, head, world.is_current(self), key, worker))
        world.note(f"{self.name} effect {word} for {call_id}")
        return word

    def receive(self, key: str, arguments: JsonObject) -> None:
        self.world.received.append((key, arguments))

    def take_url(self, url: str, call_id: str, deadline: int) -> None:
        learn(self.world, url, call_id, deadline)

    def have_asked(self, call_id: str, deadline: int) -> None:
        world = self.world
        if world.is_current(self):  # who is taken over from may ask in vain
            head = world.store.row(world.session_id).head
            world.consents.promised.append(Promised(call_id, head, deadline))

    def send(self, tool: str, call_id: str, key: str) -> str:
        word = self.touch_world(tool, call_id, key)
        self.world.sent.setdefault(key, (self.world.loop.now + DELAY, word))
        return word

    def seen(self, key: str) -> str | None:
        since, word = self.world.sent.get(key, (0.0, None))
        return word if since <= self.world.loop.now else None


def _owned_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **more: Any
) -> asyncio.Task[Any]:
    """Create a task that dies with the process that it was created in."""
    task = asyncio.Task(work, loop=loop, **more)
    context = more.get("context")
    process = context.get(HANDS) if context is not None else HANDS.get(None)
    if isinstance(process, Process):
        process.tasks[task] = None
        task.add_done_callback(lambda done: process.tasks.pop(done, None))
    return task


class _Bus(LocalBus):
    """The real bus; in a lossy world it loses `Stop` signals, which need not be delivered."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def publish(self, signal: Signal) -> None:
        if not (self._world.lossy and isinstance(signal, Stop)):
            super().publish(signal)


class _Turns(ParkedTurns):
    """The real turns that a process keeps. Whatever they return must be what the log says."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def start_of(self, row: SessionRow) -> TurnState:
        state = super().start_of(row)
        if isinstance(state, Calling) and row.deleted_at is None:
            log = self._world.store.events(row.id)[row.turn_after : state.head]
            if (logged := fold(log, Idle(head=row.turn_after))) != state:
                self._world.blame(f"a process has kept the turn {state}, but the log has {logged}")
        return state


class _Queue(LocalQueue):
    """The real queue; like PostgreSQL's, it knows the jobs of any live process, from their commit on."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.spawn)
        self._world = process.world
        self.committed: list[object] = []
        """The keys of jobs whose transactions have committed, and that this process does not know yet."""
        self._jobs: dict[object, Job] = {}

    @property
    def tasks(self) -> list[Job]:
        """The jobs of tasks that this process has."""
        return [job for key, job in self._jobs.items() if key in self._known and job.task_id is not None]

    def put(self, job: Job) -> None:
        self._jobs[job.key] = job
        super().put(job)

    async def enqueue(self, tx: Tx, job: Job) -> None:
        await super().enqueue(_Put(tx, self, job), job)  # type: ignore[arg-type]

    async def has_live_job(self, tx: Tx, session_id: SessionId) -> bool:
        queues = (process.queue for process in self._world.processes if process.alive)
        return any(session_id in queue._known or session_id in queue.committed for queue in queues)


class _Put:
    """A job that a transaction enqueues, and what adds it to the queue after the commit."""

    def __init__(self, tx: Tx, queue: _Queue, job: Job) -> None:
        self._tx, self._queue, self._job = tx, queue, job

    def after_commit(self, put: Callable[[], None]) -> None:
        self._put = put
        self._tx.after_commit(self)

    def announce(self) -> None:
        self._queue.committed.append(self._job.key)

    def withdraw(self) -> None:
        self._queue.committed.remove(self._job.key)

    def __call__(self) -> None:
        self._put()


def _run_all(callbacks: list[Callable[[], None]]) -> None:
    for call in callbacks:
        call()


class _Port:
    """The database port of the engine or the app of one process, with points around each access."""

    dialect = "sqlite"

    def __init__(self, process: Process, role: str) -> None:
        self._process, self._role = process, role

    async def write(self, body: Body[T], *, single: bool = False) -> T:
        process, world = self._process, self._process.world
        if seconds := LATE_WRITES.get():
            await process.pause(seconds)
        await process.point(f"{self._role}.write")
        who = _RUNNER.get() or asyncio.current_task()
        _RUNNER.set(who)

        def look() -> None:
            if world.witness is not None:
                world.witness.check(self._role, who)
            for witness in world.witnesses.values():
                witness.check(self._role, who)
            if world.meter is not None:
                world.meter.check()

        result, callbacks = world.store.commit(body, look)
        if len(world.store.locks) > 1:
            world.blame(f"a transaction locked two sessions: {sorted(world.store.locks)}")
        world.discover()
        jobs = [each for each in callbacks if isinstance(each, _Put)]
        for each in jobs:
            each.announce()
        try:
            await process.point(f"{self._role}.committed")
        except asyncio.CancelledError:  # of the caller: what the commit leads to happens in any case
            _run_all(callbacks if process.alive else [])
            raise
        finally:
            for each in jobs:
                each.withdraw()
        _run_all(callbacks)
        return result

    async def read(self, body: Body[T], *, long: bool = False, seconds: float | None = None) -> T:
        await self._process.point(f"{self._role}.read")
        return await self._process.world.store.read(body)

    async def close(self) -> None:
        pass
