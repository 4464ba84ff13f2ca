"""A storm over trees whose sessions spend the money of budgets at four levels, and checks of the money."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg

from perdure.domain.ids import new_id
from perdure.domain.model_profiles import ModelCost
from perdure.store.budget_entries import book_charges
from perdure.store.budget_holds import left_holds, settle_lost
from perdure.store.database import Database, Tx
from perdure.store.events import events_after
from perdure.store.postgres.database import open_postgres
from perdure.store.rows import to_json
from perdure.store.sqlite import open_sqlite
from tests.crash.tree_storm import AWAY, TreeStorm
from tests.talk import Json

FIRST = 6_000
"""Tokens of a session's budget at first: some calls of a tree. Clients add as many now and then."""
MOST = 10**15
ERROR = 3_000
"""Tokens by which all estimates of prompts may be off together when a budget is used up."""
AT_WORK = (
    "SELECT COUNT(*) FROM sessions WHERE deleted_at IS NULL AND status NOT IN ('idle', 'started', 'paused')"
)
FAR = 10**17
# Calls that a kill interrupts are made again and again, which is no loop here.
CAPABILITIES: tuple[Json, ...] = ({"ref": "subagents"}, {"ref": "loop_detection", "config": {"limit": 50}})
_NEW = (
    "INSERT INTO budgets (id, org_id, subject_type, subject_id, currency, limit_amount, credit, status,"
    " unpriced, metadata, spent, leased, warned, created_at, updated_at)"
    " VALUES ('{id}', '{org}', '{kind}', '{subject}', '{currency}', {limit}, 0, 'active',"
    " {price}, '{{}}', 0, 0, 0, 1, 1)"
)


class MoneyStorm(TreeStorm):
    """Clients who let trees grow that spend the money of their session, agent, user and organization."""

    def __init__(
        self, urls: list[str], chance: random.Random, data: Path, database_url: str, *, small: bool
    ) -> None:
        super().__init__(urls, chance, data, database_url, small=small)
        self.paused = 0
        """Sessions that waited for money once clients had no more."""
        self._agent: str | None = None
        self._more_capabilities: tuple[Json, ...] = ()
        self._first = FIRST

    async def _create(self) -> str:
        if self._agent is None:
            made = await self._send("POST", "/v1/agents", {"name": "spender", "system_prompt": "Spend."}, 201)
            self._agent = str(made["id"])
        body = {"agent_id": self._agent, "capabilities": [*CAPABILITIES, *self._more_capabilities]}
        root = str((await self._send("POST", "/v1/sessions", body, 201))["id"])
        org, user = await self._sql(f"SELECT org_id, owner_id FROM sessions WHERE id = '{root}'")
        subjects = [("session", root, "tokens", self._first)]
        if not self.roots and not await self._sql("SELECT 1 FROM budgets"):
            price = f"'{to_json(ModelCost(1.0, 2.0))}'"
            subjects += [("agent", self._agent, "tokens", MOST), ("user", user, "tokens", MOST)]
            await self._sql(self._new(org, "organization", org, "usd", MOST, price))
        for kind, subject, currency, limit in subjects:
            await self._sql(self._new(org, kind, subject, currency, limit, "NULL"))
        return root

    def _new(self, org: str, kind: str, subject: str, currency: str, limit: int, price: str) -> str:
        made = {"id": new_id("budget"), "org": org, "kind": kind, "subject": subject}
        return _NEW.format(**made, currency=currency, limit=limit, price=price)

    async def _disturb(self, root: str, *, last: bool) -> None:
        if self.chance.random() < 0.5:
            await self._sql(
                f"UPDATE budgets SET limit_amount = limit_amount + {FIRST} WHERE subject_id = '{root}'"
            )
        else:
            await super()._disturb(root, last=last)

    async def _rest(self) -> None:
        """Wait until all work is done or parked, look at the limits, and let the rest go on."""
        while (await self._sql(AT_WORK))[0]:
            await asyncio.sleep(AWAY)
        over = await self._sql(
            "SELECT COUNT(*) FROM budgets WHERE spent + COALESCE((SELECT SUM(spent) FROM budget_shards"
            f" WHERE budget_id = budgets.id), 0) > limit_amount + {ERROR}"
        )
        assert over[0] == 0, "a limit was passed"
        self.paused = (await self._sql("SELECT COUNT(*) FROM sessions WHERE status = 'paused'"))[0]
        await self._sql(f"UPDATE budgets SET limit_amount = {MOST}")
        await super()._rest()

    async def _sql(self, sql: str) -> tuple[Any, ...]:
        if self._database_url:
            if sql.startswith("SELECT"):
                connection = await asyncpg.connect(self._database_url)
                try:
                    return tuple(await connection.fetchrow(sql) or ())
                finally:
                    await connection.close()
            connection = await asyncpg.connect(self._database_url)
            try:
                await connection.execute(sql)
            finally:
                await connection.close()
            return ()
        return await asyncio.to_thread(self._in_file, sql)

    def _in_file(self, sql: str) -> tuple[Any, ...]:
        connection = sqlite3.connect(self._data / "perdure.db", timeout=20)
        try:
            with connection:
                return tuple(connection.execute(sql).fetchone() or ())
        finally:
            connection.close()


async def check_money(data: Path, database_url: str) -> Counter[str]:
    """Check the money in a database without servers; return how many calls were charged, by source."""
    database = await (open_postgres(database_url) if database_url else open_sqlite(data / "perdure.db"))
    try:
        for left in await database.read(
            lambda tx: left_holds(tx, FAR, FAR)
        ):  # as a sweep does after a minute
            await database.write(lambda tx, left=left: settle_lost(tx, left, 2))
        while await database.write(book_charges):
            pass
        return await _check(database)
    finally:
        await database.close()


async def _check(database: Database) -> Counter[str]:
    async def read(tx: Tx) -> tuple[list[Any], list[Any], list[Any], dict[str, list[int]], set[str]]:
        sums = await tx.all(
            "SELECT id, subject_type, spent + COALESCE((SELECT CAST(SUM(spent) AS BIGINT) FROM budget_shards"
            " WHERE budget_id = budgets.id), 0), leased, (SELECT CAST(COALESCE(SUM(leased), 0) AS BIGINT)"
            " FROM budget_shards WHERE budget_id = budgets.id), (SELECT CAST(COALESCE(SUM(reserved), 0) AS"
            " BIGINT) FROM budget_shards WHERE budget_id = budgets.id) FROM budgets"
        )
        entries = await tx.all("SELECT budget_id, session_id, ref_id, amount, source FROM budget_entries")
        holds = await tx.all("SELECT id FROM budget_holds")
        answers: dict[str, list[int]] = {}
        for session_id, copied in await tx.all("SELECT id, forked_from_sequence FROM sessions"):
            for event in await events_after(tx, session_id, copied or 0, limit=1_000_000):
                if event.type == "llm.generation" and (usage := event.decoded().metadata.usage):  # type: ignore[attr-defined]
                    answers.setdefault(session_id, []).append(usage.input_tokens + usage.output_tokens)
        paying = await tx.all(
            "SELECT id FROM sessions WHERE COALESCE(root_session_id, id) IN"
            " (SELECT subject_id FROM budgets WHERE subject_type = 'session')"
        )
        return list(sums), list(entries), list(holds), answers, {row[0] for row in paying}

    sums, entries, holds, answers, paying = await database.read(read)
    assert holds == [], "a hold is left"
    calls: dict[str, Counter[tuple[str, str]]] = {}
    paid: Counter[tuple[str, int]] = Counter()
    kinds = {row[0]: row[1] for row in sums}
    for budget_id, session_id, ref_id, amount, _ in entries:
        calls.setdefault(kinds[budget_id], Counter())[session_id, ref_id] += 1
        if kinds[budget_id] == "user":
            paid[session_id, amount] += 1
    for budget_id, _, spent, leased, in_shards, reserved in sums:
        assert reserved == 0, "money is left reserved"
        assert leased == in_shards
        assert spent == sum(row[3] for row in entries if row[0] == budget_id)
    assert set(calls) == {"session", "agent", "user", "organization"}
    every = calls["organization"]
    kept = {call for call in every if call[0] in paying}
    for each in calls.values():
        # A session's budget goes with the session.
        assert kept <= set(each) <= set(every), "a call is not charged to each level"
        assert set(each.values()) == {1}, "a call is charged twice"
    for session_id, amounts in answers.items():
        for amount in amounts:
            assert paid[session_id, amount] > 0, f"{session_id} has not paid {amount}"
            paid[session_id, amount] -= 1
    return Counter(row[4] for row in entries if kinds[row[0]] == "user")
