"""One real SQLite database for many simulated sessions, and the witness that checks each commit of a session.

Statements and transactions are the real ones, but run in the calling thread and without flushing to disk.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from msgspec.structs import astuple

from perdure.app.accounts import bootstrap
from perdure.app.agents import create_agent
from perdure.app.context import App, Services
from perdure.app.models import create_model
from perdure.app.providers import create_provider
from perdure.capabilities.registry import Registry
from perdure.domain.accounts import Caller
from perdure.domain.agents import CreateAgent
from perdure.domain.events import Event, NewEvent
from perdure.domain.ids import AgentId
from perdure.domain.parked import next_deadline
from perdure.domain.pending import queued
from perdure.domain.projection import Projection, project
from perdure.domain.providers import CreateModel, CreateProvider
from perdure.domain.tools import CapabilityRef
from perdure.domain.turn import Idle, fold
from perdure.engine.context import Policy, SystemClock
from perdure.store.bus import LocalBus
from perdure.store.crypto import Vault
from perdure.store.database import Body, T
from perdure.store.migrate import migrate
from perdure.store.queue import LocalQueue
from perdure.store.rows import columns
from perdure.store.sessions import SessionRow
from perdure.store.sqlite import SqliteTx, _drive, connect
from perdure.store.tasks import TaskRow
from perdure.tools.built_in import built_in
from tests.simulation.model import SPARE
from tests.simulation.scenarios import FIRST, SECOND
from tests.simulation.tools import SIMULATION
from tests.simulation.tree_tools import subagents_in_process

EVENTS = (
    "SELECT id, session_id, sequence, type, ts, context, data, metadata, tags FROM events"
    " WHERE session_id = ?"
)
LOCKED = "/* locked */"
"""The end of a SELECT that locks a session."""
_LOCKS = re.compile(r" WHERE id = '(session_[0-9a-f]{32})'")
_MADE = re.compile(r"VALUES \('(session_[0-9a-f]{32})'")
SIGNING_KEY = b"for the tokens of callbacks"
TASKS = f"SELECT {columns(TaskRow)} FROM tasks"
ROW = f"SELECT {columns(SessionRow)} FROM sessions WHERE id = ?"


class Store:
    """The database, with what every session needs: an organization, a provider and a model."""

    dialect = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.writer = connect(folder / "simulation.db")
        self.writer.execute("PRAGMA synchronous=OFF")
        self.reader = connect(folder / "simulation.db", readonly=True)
        self._made = ""
        self.locks: set[str] = set()
        """The sessions that the last transaction has locked, if locks are watched: not those it has made."""
        self.vault = Vault(lambda: (bytes(32),))
        self.services = Services(
            self, LocalQueue(asyncio.ensure_future), LocalBus(), self.vault, SystemClock().now
        )
        self.registry = Registry(
            [
                *(each for each in built_in(self.services) if each.id != "subagents"),
                subagents_in_process(),
                SIMULATION,
            ]
        )
        self.caller: Caller = asyncio.run(self._set_up())

    async def _set_up(self) -> Caller:
        await migrate(self)
        app = App(
            *astuple(self.services),
            registry=self.registry,
            drivers=SimulatedDrivers(),
            callback_key=SIGNING_KEY,
        )
        caller = await bootstrap(app)
        provider = await create_provider(app, caller, CreateProvider("Simulation", "llmsim"))
        await create_model(app, caller, provider.id, CreateModel("simulated", "Simulated"))
        self.agents: dict[str, AgentId] = {}
        for history in ("full", "summary"):
            names = (f"{FIRST}-{history}", f"{SECOND}-{history}")
            for name, other in (names, names[::-1]):
                ref = CapabilityRef("handoff", {"agents": [other], "history": history})
                refs = () if name == f"{SECOND}-summary" else (ref,)  # this one cannot hand back
                body = CreateAgent(name, name, harness_name="base", capabilities=refs)
                self.agents[name] = (await create_agent(app, caller, body))[0].id
        self.spare = (await create_model(app, caller, provider.id, CreateModel(SPARE, "Spare"))).id
        return caller

    def commit(self, body: Body[T], before_commit: Callable[[], None]) -> tuple[T, list[Callable[[], None]]]:
        """Run a transaction; returns its result and the callbacks to run after the commit."""
        tx = SqliteTx(self.writer)
        self.locks.clear()
        self.writer.execute("BEGIN IMMEDIATE")
        try:
            result = _drive(body, tx)
            before_commit()
        except BaseException:
            self.writer.execute("ROLLBACK")
            raise
        self.writer.execute("COMMIT")
        return result, tx.callbacks

    def watch_locks(self, *, watched: bool) -> None:
        """Note from now on which sessions a transaction locks."""
        self.writer.set_trace_callback(self._note_lock if watched else None)

    def _note_lock(self, sql: str) -> None:
        if sql.startswith("UPDATE sessions SET") or sql.endswith(LOCKED):
            found = _LOCKS.search(sql)
            if found is not None:
                self.locks.add(found[1])
        elif sql.startswith("INSERT INTO sessions "):
            self._made = found[1] if (found := _MADE.search(sql)) is not None else ""
        self.locks.discard(self._made)

    async def write(self, body: Body[T], *, single: bool = False) -> T:
        result, callbacks = self.commit(body, lambda: None)
        for call in callbacks:
            call()
        return result

    async def read(self, body: Body[T], *, long: bool = False, seconds: float | None = None) -> T:
        return _drive(body, SqliteTx(self.reader))

    async def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self.writer.close()

    def row(self, session_id: str) -> SessionRow:
        return SessionRow(*self.reader.execute(ROW, (session_id,)).fetchone())

    def events(self, session_id: str) -> list[Event]:
        return [Event(*row) for row in self.reader.execute(f"{EVENTS} ORDER BY sequence", (session_id,))]

    def below(self, session_id: str) -> list[str]:
        """The sessions of the tree below a session, oldest first."""
        found = self.reader.execute(
            "SELECT id FROM sessions WHERE root_session_id = ? ORDER BY created_at, depth, id", (session_id,)
        )
        return [row[0] for row in found]

    def children(self, session_id: str) -> list[str]:
        """The sessions that a session has begun."""
        sql = "SELECT id FROM sessions WHERE parent_session_id = ?"
        return [row[0] for row in self.reader.execute(sql, (session_id,))]

    def has_told(self, row: SessionRow) -> bool:
        """Whether a session's parent knows all that the session has to tell."""
        tasks = self.tasks(row.parent_session_id) if row.parent_session_id else []
        return row.news is None or all(task.knows(row.news) for task in tasks if task.id == row.task_id)

    def tasks(self, session_id: str) -> list[TaskRow]:
        """The tasks of a session."""
        found = self.reader.execute(f"{TASKS} WHERE session_id = ? ORDER BY created_at, id", (session_id,))
        return [TaskRow(*row) for row in found]

    def forget_tree(self, session_id: str) -> None:
        """As `forget`, with the sessions below it, and their tasks."""
        for each in self.below(session_id):
            self.forget(each)
        self.forget(session_id)
        budgets = ("budgets", "budget_shards", "budget_holds", "budget_entries", "budget_waits")
        for table in ("tasks", "task_waits", "task_messages", *budgets):
            self.writer.execute(f"DELETE FROM {table}")

    def forget(self, session_id: str) -> None:
        """Delete the session, so that the file stays small however many schedules are played."""
        self.writer.execute("BEGIN IMMEDIATE")
        for table, column in (
            ("events", "session_id"),
            ("standing_approvals", "session_id"),
            ("input_requests", "session_id"),
            ("participants", "session_id"),
            ("sessions", "id"),
        ):
            self.writer.execute(f"DELETE FROM {table} WHERE {column} = ?", (session_id,))
        # The ledger keeps the calls of deleted sessions, and equal schedules have equal ids.
        self.writer.execute("DELETE FROM model_calls")
        self.writer.execute("DELETE FROM connections")
        self.writer.execute("DELETE FROM callbacks")  # those that were answered are kept for a day
        self.writer.execute("COMMIT")


class SimulatedDrivers:
    def known_types(self) -> tuple[str, ...]:
        return ("llmsim",)

    def environment_key(self, org_id: str, provider_type: str) -> bool:
        return False

    def lend_environment(self, org_id: str) -> None:
        raise NotImplementedError

    def driver_for(self, row: Any, secrets: Any) -> Any:
        raise NotImplementedError

    def unpooled(self, config: Any) -> Any:
        raise NotImplementedError


class Witness:
    """Checks promises P2 and P3 in each transaction that changes the session, just before its commit.

    It has its own copy of the log, its own projection, and tracks which runner holds the session.
    """

    def __init__(self, store: Store, session_id: str, blame: Callable[[str], None]) -> None:
        self._store = store
        self._session_id = session_id
        self._blame = blame
        self.log: list[Event] = []
        self.row = store.row(session_id)
        self._projection = Projection()
        self._holder: object = None
        self._claims = 0
        self.robbed = False
        """Whether a runner lost the session to another one's claim while it was at work."""
        self._read_new_events()

    def check(self, role: str, who: object) -> None:
        """Check the current transaction. `role` is `engine` or `app`; `who` is the runner, if it is one."""
        before = self.row
        columns_after = self._store.writer.execute(ROW, (self._session_id,)).fetchone()
        self.row = after = SessionRow(*columns_after)
        if after == before:
            return
        self._check_epoch(before, after, role, who)
        if after.updated_at < before.updated_at:
            self._blame(f"updated_at went back from {before.updated_at} to {after.updated_at}")
        if after.title != before.title and (role == "engine" or after.head != before.head):
            self._blame("an append changed the title")
        if after.head != before.head or after.status != before.status:
            self._read_new_events()
        if after.head != before.head and self._is_progress(role):
            self._claims = 0
        elif after.epoch != before.epoch:
            self._claims += 1

    def _is_progress(self, role: str) -> bool:
        """Whether the last append was progress: a message is none, nor the start of a summary or a step."""
        if role == "app" and self.row.status == "active":
            return False
        last = self.log[-1]
        started = last.type == "tool.step" and last.decoded().status == "started"  # type: ignore[attr-defined]
        return not started and last.type not in {"context.compacting", "tool.verified", "task.updated"}

    def _check_epoch(self, before: SessionRow, after: SessionRow, role: str, who: object) -> None:
        step, grown = after.epoch - before.epoch, after.head - before.head
        if grown < 0:
            self._blame(f"P2: the head went back from {before.head} to {after.head}")
        if step not in {0, 1, 2} or (step == 2 and after.deleted_at is None):
            self._blame(f"P3: the epoch went from {before.epoch} to {after.epoch}")
        if role == "app":
            self._holder = None if step else self._holder
        elif step:
            before_it = self._holder
            if after.head == before.head and isinstance(before_it, asyncio.Task) and before_it is not who:
                self.robbed = self.robbed or not before_it.done()
            self._holder = who
        elif grown and self._holder is not who:
            self._blame(
                f"P3: a runner that does not hold the session appended {before.head + 1} to {after.head}"
            )

    def _read_new_events(self) -> None:
        known = self.log[-1].sequence if self.log else 0
        rows = self._store.writer.execute(
            f"{EVENTS} AND sequence > ? ORDER BY sequence", (self._session_id, known)
        ).fetchall()
        fresh = [Event(*row) for row in rows]
        self.log += fresh
        decoded = [NewEvent(event.decoded(), event.context_struct(), event.ts) for event in fresh]
        self._projection = project(self._projection, decoded)
        if any(event.type == "turn.sealed" for event in fresh) and self._claims <= Policy().max_recoveries:
            self._blame(f"P4: sealed after {self._claims} recoveries")
        if self.row.deleted_at is None and self.row.projection() != self._projection:
            self._blame(f"the row's projection is {self.row.projection()}, its log's is {self._projection}")
        if self._projection.wake_at != next_deadline(self._projection.parked):
            self._blame(f"the session wakes at {self._projection.wake_at} for {self._projection.parked}")
        self._check_queue()

    def _check_queue(self) -> None:
        """Check that the row counts the messages that wait as the fold of the turn does."""
        counted = [each.turn_id for each in self._projection.queued]
        if counted or any(event.type == "input.message" for event in self.log[-3:]):
            after = self._projection.turn_after
            waiting = queued(fold(self.log[after:], Idle(head=after)).pending)
            if counted != [each.turn_id for each in waiting]:
                self._blame(f"the row counts {counted} as waiting, and the log has {waiting}")
