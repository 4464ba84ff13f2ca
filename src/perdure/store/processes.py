"""Rows of the server's processes, and what they count by the minute. All times are the database's."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from perdure.domain.ids import SessionId, WorkerId
from perdure.domain.processes import BreakerReport, ProcessReport, ProcessState, Role, TurnCounts
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import from_json, to_json

NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
    "postgres": "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)",
}
"""The database's clock, in microseconds since the Unix epoch."""

DEAD_AFTER = 10_000_000
"""Microseconds without a sign of life after which a process counts as stopped."""
KEPT = 3_600_000_000
"""Microseconds for which a stopped process is shown."""
MINUTES_KEPT = 24 * 60
"""Minutes for which counts are kept."""
MOST = 1_000
"""The most processes that are listed."""

COUNTS = tuple(name.removeprefix("turns_") for name in TurnCounts.__struct_fields__)
"""The columns of what is counted by the minute, in the order of `TurnCounts`."""

_SESSIONS = msgspec.json.Decoder(tuple[SessionId, ...])
_BREAKERS = msgspec.json.Decoder(tuple[BreakerReport, ...])


class Process(Struct, frozen=True):
    """A process, as it presents itself at its start."""

    id: WorkerId
    role: Role
    host: str
    pid: int
    version: str
    places: int


class ProcessRow(Struct, frozen=True):
    """A process with its last report."""

    process: Process
    state: ProcessState
    running: int
    completed: int
    failed: int
    sessions: str
    breakers: str
    drain: int
    started_at: Micros
    seen_at: Micros

    def session_ids(self) -> tuple[SessionId, ...]:
        return from_json(_SESSIONS, self.sessions, f"the process {self.process.id}")

    def breaker_reports(self) -> tuple[BreakerReport, ...]:
        return from_json(_BREAKERS, self.breakers, f"the process {self.process.id}")


async def report(tx: Tx, process: Process, said: ProcessReport) -> bool:
    """Keep a process's report; return whether an operator wants it to drain."""
    now = NOW[tx.dialect]
    row = await tx.one(
        "INSERT INTO processes (id, role, host, pid, version, places, state, running, completed, failed,"
        f" sessions, breakers, drain, started_at, seen_at) VALUES ({', '.join('?' * 12)}, 0, {now}, {now})"
        " ON CONFLICT (id) DO UPDATE SET state = excluded.state, running = excluded.running,"
        " completed = excluded.completed, failed = excluded.failed, sessions = excluded.sessions,"
        " breakers = excluded.breakers, seen_at = excluded.seen_at RETURNING drain",
        *(process.id, process.role, process.host, process.pid, process.version, process.places),
        *(said.state, said.running, said.completed, said.failed),
        to_json(said.sessions),
        to_json(said.breakers),
    )
    return row is not None and bool(row[0])


async def drain_wanted(tx: Tx, process_id: WorkerId) -> bool | None:
    """Return whether an operator wants the process to drain; None if it has no row."""
    row = await tx.one("SELECT drain FROM processes WHERE id = ?", process_id)
    return None if row is None else bool(row[0])


async def want_drain(tx: Tx, process_id: WorkerId, wanted: bool) -> None:
    """Note that an operator wants the process to drain, or to take turns again."""
    await tx.run("UPDATE processes SET drain = ? WHERE id = ?", int(wanted), process_id)


async def leave(tx: Tx, process_id: WorkerId) -> None:
    """Note that the process has stopped."""
    await tx.run(
        f"UPDATE processes SET state = 'stopped', running = 0, sessions = '[]', breakers = '[]',"
        f" seen_at = {NOW[tx.dialect]} WHERE id = ?",
        process_id,
    )


async def remove_others(tx: Tx, process_id: WorkerId) -> None:
    """Remove all other processes: on SQLite, there can be none."""
    await tx.run("DELETE FROM processes WHERE id <> ?", process_id)


async def purge_processes(tx: Tx) -> None:
    """Remove processes that stopped long ago, and old counts."""
    now = NOW[tx.dialect]
    await tx.run(f"DELETE FROM processes WHERE seen_at < {now} - ?", KEPT)
    await tx.run(f"DELETE FROM turn_minutes WHERE minute < {now} / 60000000 - ?", MINUTES_KEPT)


async def count_live(tx: Tx) -> int:
    """Count the processes that live, as far as is known."""
    row = await tx.one(
        f"SELECT COUNT(*) FROM processes WHERE state <> 'stopped' AND seen_at > {NOW[tx.dialect]} - ?",
        DEAD_AFTER,
    )
    return 0 if row is None else int(row[0])


async def all_processes(tx: Tx) -> list[ProcessRow]:
    """Return the processes, those that started last first. The dead ones are `stopped`.

    On SQLite there is one, and it is alive: it answers.
    """
    state = "state"
    if tx.dialect == "postgres":
        state = f"CASE WHEN seen_at < {NOW[tx.dialect]} - {DEAD_AFTER} THEN 'stopped' ELSE state END"
    rows = await tx.all(
        f"SELECT id, role, host, pid, version, places, {state}, running, completed, failed, sessions,"
        " breakers, drain, started_at, seen_at FROM processes ORDER BY started_at DESC, id LIMIT ?",
        MOST,
    )
    return [ProcessRow(Process(*row[:6]), *row[6:]) for row in rows]


async def add_counts(tx: Tx, counts: TurnCounts) -> None:
    """Add what a process has counted to the present minute."""
    sums = ", ".join(f"{name} = turn_minutes.{name} + excluded.{name}" for name in COUNTS)
    await tx.run(
        f"INSERT INTO turn_minutes (minute, {', '.join(COUNTS)})"
        f" VALUES ({NOW[tx.dialect]} / 60000000, {', '.join('?' * len(COUNTS))})"
        f" ON CONFLICT (minute) DO UPDATE SET {sums}",
        *msgspec.structs.astuple(counts),
    )


_SUMS = ", ".join(f"COALESCE(SUM({name}), 0)" for name in COUNTS)


async def counts_by(tx: Tx, minutes: int, step: int) -> list[tuple[int, TurnCounts]]:
    """Sum up what was counted in the last minutes, by parts of `step` minutes, as (first minute, counts)."""
    rows = await tx.all(
        f"SELECT minute / {step} * {step}, {_SUMS} FROM turn_minutes"
        f" WHERE minute > {NOW[tx.dialect]} / 60000000 - ? GROUP BY 1 ORDER BY 1",
        minutes,
    )
    return [(int(row[0]), TurnCounts(*map(int, row[1:]))) for row in rows]


async def counts_of_day(tx: Tx) -> TurnCounts:
    """Sum up what was counted in the last day."""
    since = f"{NOW[tx.dialect]} / 60000000 - {MINUTES_KEPT}"
    row = await tx.one(f"SELECT {_SUMS} FROM turn_minutes WHERE minute > {since}")
    return TurnCounts() if row is None else TurnCounts(*map(int, row))
