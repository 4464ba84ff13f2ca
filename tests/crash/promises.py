"""Checks every promise over all sessions after a storm, and shows what was checked as a table."""

from __future__ import annotations

import json
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from perdure.domain.effects import part_key
from perdure.domain.events import ENDED_TURN
from perdure.domain.tools import question_id
from tests.crash.checks import check_message, check_steps, received_by_model
from tests.crash.fleet import Fleet
from tests.crash.followers import Session
from tests.crash.money_storm import check_money
from tests.crash.roles_storm import REFUSED, SECRET, USER, Fork, RolesStorm
from tests.crash.transactions import Transactions
from tests.crash.tree_storm import DEADLOCKS, counted
from tests.crash.tree_storm_checks import Kept, check_session, check_task, kept_sessions
from tests.server import Server
from tests.talk import Json, text_in

NOT_CHECKED = {
    "P7": "needs a calm machine: tests/unit and `make bench` count the work of long sessions",
    "P11": "a storm has one release: tests/upgrade continues databases of older ones",
}
WORK = ("reason.", "act.", "tool.", "llm.", "output.message.")
"""How the types of events begin that only the runner of a turn appends."""
ONCE = {"charge", "order", "failing", "hanging", "clueless"}
"""Tools that may not run again. The others may, or are asked what has happened."""
STEPS = ("reserve", "charge", "mail")


@dataclass
class Row:
    """One line of the table."""

    checked: int = 0
    violations: list[str] = field(default_factory=list)


class Table:
    """What was checked, by promise and by what it is."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}

    @contextmanager
    def check(self, promise: str, what: str, count: int = 1) -> Iterator[None]:
        """Count a check; what it raises is a violation."""
        row = self.rows.setdefault((promise, what), Row())
        row.checked += count
        try:
            yield
        except (AssertionError, LookupError) as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            row.violations.append(f"{at.line}: {error}"[:2000])

    def violations(self) -> list[str]:
        return [
            f"{promise}, {what}: {each}"
            for (promise, what), row in self.rows.items()
            for each in row.violations
        ]

    def __str__(self) -> str:
        rows = [
            (promise, what, f"{row.checked:,}", str(len(row.violations)))
            for (promise, what), row in self.rows.items()
        ]
        rows += [(promise, f"not checked: {why}", "", "") for promise, why in NOT_CHECKED.items()]
        rows.sort(key=lambda row: int(row[0][1:]))
        rows.insert(0, ("promise", "what was checked", "number", "violations"))
        width = max(len(what) for _, what, _, _ in rows)
        return "\n".join(
            f"{promise:8} {what:{width}} {number:>9} {bad:>10}" for promise, what, number, bad in rows
        )


async def check_promises(storm: RolesStorm, fleet: Fleet, transactions: Transactions) -> Table:
    """Check everything after a storm, whose processes have stopped."""
    table = Table()
    kept = await kept_sessions(fleet.processes[0].data, fleet.url)
    logs = {name: [json.loads(event.wire()) for event in each.events] for name, each in kept.items()}
    logs |= storm.logs
    for each in kept.values():
        _check_turns(table, each, logs[each.row.id], kept)
    for session in storm.sessions.values():
        _check_acknowledged(table, storm, session, kept, logs)
    for fork in storm.acknowledged.forks:
        with table.check("P1", "acknowledged forks are whole"):
            _check_fork(fork, kept)
    _check_effects(table, fleet.world, kept, logs)
    _check_transactions(table, transactions)
    await _check_secrets(table, storm, fleet)
    await _check_refusals(table, storm, fleet)
    await _check_money(table, storm, fleet)
    return table


def _is_notice(event: Json) -> bool:
    """Whether this is the message that tells people of a cancel."""
    if event["type"] != "output.message.completed":
        return False
    return bool(event["data"]["message"].get("metadata", {}).get("cancel_notice"))


def _own(kept: Kept, log: list[Json]) -> list[Json]:
    """The events that the session has not copied from another one."""
    return log[kept.row.forked_from_sequence or 0 :]


def _check_turns(table: Table, each: Kept, log: list[Json], kept: dict[str, Kept]) -> None:
    """The log and row of any session, its turns, calls and tasks."""
    with table.check("P2", "logs are gapless, and rows are what their logs say"):
        check_session(each, kept)
    ends = {event["context"]["turn_id"]: event for event in log if event["type"] in ENDED_TURN}
    with table.check("P3", "claims of sessions", each.row.epoch):
        for event in log:
            end = ends.get(event["context"].get("turn_id"))
            late = end is not None and event["sequence"] > end["sequence"]
            work = event["type"].startswith(WORK) and not _is_notice(event)
            assert not (late and work), f"after the end of its turn: {event}"
    whole = [
        event
        for event in _own(each, log)
        if (end := ends.get(event["context"].get("turn_id"))) and end["type"] == "turn.completed"
    ]
    calls = sum(event["type"] == "llm.generation" for event in whole)
    with table.check("P3", "model calls of completed turns are answered once", calls):
        check_steps(_without_answers(whole))
    if each.row.deleted_at is None:
        begun = {event["context"]["turn_id"] for event in log if event["type"] == "turn.started"}
        with table.check("P4", "turns end, without help", len(begun)):
            assert begun <= ends.keys(), f"{each.row.id} has turns without an end"
        with table.check("P4", "sessions are at rest"):
            assert each.row.status in ("idle", "started"), f"{each.row.id} is {each.row.status}"
    for task in each.tasks:
        with table.check("P12", "tasks end once, and their parents hear of it once"):
            check_task(each, task, kept, jumps=True)


def _without_answers(events: list[Json]) -> list[Json]:
    """The events without the answers of people, and the results of calls that did not begin."""
    begun = {event["data"]["tool_call"]["id"] for event in events if event["type"] == "tool.started"}
    return [
        event
        for event in events
        if event["type"] != "tool.completed" or event["data"]["tool_call_id"] in begun
    ]


def _check_acknowledged(
    table: Table, storm: RolesStorm, session: Session, kept: dict[str, Kept], logs: dict[str, list[Json]]
) -> None:
    """What clients of a session were told, and what they saw."""
    log, row = logs[session.id], kept[session.id].row
    inputs = [event for event in _own(kept[session.id], log) if event["type"] == "input.message"]
    logged = {event["data"]["message"]["id"]: event for event in inputs}
    posted = sum(text_in(event["data"]["message"]).startswith(USER) for event in inputs)
    received, given_up = received_by_model(log), _given_up(log)
    for message in session.acknowledged:
        with table.check("P1", "acknowledged messages are logged, and worked on or given up with their turn"):
            check_message(message, logged, received, given_up)
    with table.check("P1", "no message is logged twice", posted):
        assert posted == len(session.acknowledged), f"{session.id}: {posted} messages for as many answers"
    changes = storm.acknowledged.changes.get(session.id, {})
    with table.check("P1", "acknowledged changes of sessions are there", len(changes)):
        assert changes.items() <= json.loads(row.metadata).items(), session.id
    for _, call_id, decision in [each for each in storm.acknowledged.decisions if each[0] == session.id]:
        with table.check("P1", "acknowledged approvals are logged once, and obeyed"):
            _check_decision(log, call_id, decision)
    with table.check("P2", "events reached their follower once, in order", len(session.seen)):
        assert session.seen == log, f"{session.id}: the follower saw {len(session.seen)} of {len(log)} events"


def _given_up(log: list[Json]) -> set[str]:
    """The turns that were cancelled, sealed or failed."""
    return {
        event["context"]["turn_id"]
        for event in log
        if event["type"] in ENDED_TURN and event["type"] != "turn.completed"
    }


def _check_decision(log: list[Json], call_id: str, decision: str) -> None:
    answers = [
        event["data"]["decided"]["decision"]
        for event in log
        if event["type"] == "tool.completed" and event["data"]["tool_call_id"] == question_id(call_id)
    ]
    assert answers == [decision], (call_id, answers)
    started = any(
        event["type"] == "tool.started" and event["data"]["tool_call"]["id"] == call_id for event in log
    )
    assert not (started and decision == "reject"), f"{call_id} ran although it was rejected"


def _check_fork(fork: Fork, kept: dict[str, Kept]) -> None:
    """The fork begins with what its original has stored. The ids of events are its own."""
    ours, theirs = (
        [(event.type, event.ts, event.data) for event in kept[each].events[: fork.through]]
        for each in (fork.id, fork.source)
    )
    assert len(ours) == fork.through
    assert ours == theirs, f"{fork.id} differs from {fork.source}"


def _check_effects(table: Table, world: Path, kept: dict[str, Kept], logs: dict[str, list[Json]]) -> None:
    """The requests that arrived outside, by key, against the calls in the logs."""
    arrived = Counter({found.name: len(found.read_text().split()) for found in world.iterdir()})
    known: set[str] = set()
    for session_id, log in logs.items():
        events = _own(kept[session_id], log)
        results = {
            event["data"]["tool_call_id"]: event["data"]
            for event in events
            if event["type"] == "tool.completed"
        }
        for event in events:
            key = event["data"].get("effect_key") if event["type"] == "tool.started" else None
            if key is None:
                continue
            call = event["data"]["tool_call"]
            steps = {name: part_key(key, name) for name in STEPS}
            known |= {key, *steps.values()}
            with table.check("P5", "calls with effects ran once, or may run again"):
                _check_once(call, key, steps, arrived)
            with table.check("P10", "calls that succeeded took effect under their key"):
                done = results.get(call["id"], {}).get("status") == "success"
                wanted = steps.values() if call["name"] in ("order", "resumable") else (key,)
                ours = call["name"] in ONCE | {"asked", "repeatable", "resumable"}
                assert not (done and ours) or all(arrived[each] for each in wanted), call
    with table.check("P10", "keys that arrived were logged before", len(arrived)):
        assert arrived.keys() <= known, f"not logged: {arrived.keys() - known}"


def _check_once(call: Json, key: str, steps: dict[str, str], arrived: Counter[str]) -> None:
    how = call["arguments"].get("how")
    once = {key} if call["name"] in ONCE else set()
    once |= {steps["reserve"], steps["mail"]} | (set() if how else {steps["charge"]})
    doubled = [each for each in once if arrived[each] > 1]
    assert not doubled, f"{call} took effect more than once: {doubled}"


def _check_transactions(table: Table, transactions: Transactions) -> None:
    with table.check("P6", "looks at the open transactions: none idle for long", transactions.looks):
        assert transactions.held == [], transactions.held


async def _check_secrets(table: Table, storm: RolesStorm, fleet: Fleet) -> None:
    with table.check("P8", "requests from another organization find nothing", storm.refusals["strangers"]):
        pass  # a wrong status is among those of P9
    with table.check("P8", "answers do not have the secrets", storm.answers.total()):
        assert storm.leaks == []
    with table.check("P8", "secrets are in no table, log or event", len(storm.roots)):
        assert await tables_with(fleet.url, SECRET) == []
        assert [each.data.name for each in fleet.processes if SECRET in each.log.read_text()] == []


async def _check_refusals(table: Table, storm: RolesStorm, fleet: Fleet) -> None:
    with table.check("P9", "answers have the status that they should", storm.answers.total()):
        assert storm.refused == [], storm.refused[:10]
    with table.check("P9", "refused requests are in no table", storm.refusals.total()):
        assert await tables_with(fleet.url, REFUSED) == []
    for each in fleet.processes:
        with table.check("P9", "logs of processes without an unexpected error"):
            _check_process_log(each)
    with table.check("P9", "no deadlock in PostgreSQL since its last restart"):
        assert await counted(fleet.url, DEADLOCKS) == (0,)


def _check_process_log(server: Server) -> None:
    # PgQueuer tells with a traceback that a draining process cannot put its jobs back while PostgreSQL is
    # away. Others take them over.
    lines = [
        line
        for line in server.log.read_text().splitlines()
        if not ('"logger": "pgqueuer"' in line and "queries.retry_job" in line)
    ]
    for trouble in ("Traceback", "to see the traceback", "deadlock", "40P01"):
        found = [line for line in lines if trouble in line]
        assert not found, f"{server.data.name}: {len(found)} times {found[0][:1500]}"


async def _check_money(table: Table, storm: RolesStorm, fleet: Fleet) -> None:
    with table.check("P13", "budgets did not pass their limits", len(storm.roots)):
        assert storm.over_limit == []
    charged: Counter[str] = Counter()
    with table.check("P13", "model calls were charged once to each budget above", 0):
        charged = await check_money(fleet.processes[0].data, fleet.url)
    with table.check("P13", "model calls were charged once to each budget above", charged.total()):
        pass


async def tables_with(url: str, text: str) -> list[str]:
    """The tables of a database that have this text in a row."""
    connection = await asyncpg.connect(url)
    try:
        names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        found = []
        for (name,) in names:
            where = f"SELECT 1 FROM public.\"{name}\" AS kept WHERE kept::text LIKE '%{text}%' LIMIT 1"
            if await connection.fetchval(where):
                found.append(str(name))
        return found
    finally:
        await connection.close()
