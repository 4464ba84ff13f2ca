"""A storm over sessions with tools, sub-agents and budgets: clients who use all of it at once.

They post, change, cancel, approve, fork and follow, raise budgets, send requests that must be refused, and
look in vain from another organization. `endure` has a fleet disturbed meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from perdure.domain.tools import call_of_question
from tests.crash.fleet import Fleet
from tests.crash.followers import AWAY, Followers, Session
from tests.crash.money_storm import FIRST, MoneyStorm
from tests.crash.transactions import Transactions
from tests.crash.tree_storm import grown
from tests.talk import Json, body_of, call, script

REST = 420.0
"""Seconds within which everything must be over after the last fault."""
UNFINISHED = (
    "SELECT string_agg(concat_ws(' ', id, status, head, epoch, resting, parked, news) || (SELECT string_agg("
    "  concat_ws(' ', '\n  ', sequence, type, context, left(data::text, 400)), '' ORDER BY sequence)"
    "  FROM events WHERE session_id = sessions.id AND sequence > head - 8), '\n')"
    " FROM sessions WHERE deleted_at IS NULL AND status NOT IN ('idle', 'started', 'paused')"
    " OR news IS NOT NULL"
)
SLOW_MS = 3000
"""How long a slow model call takes: no transaction may be open meanwhile."""
MOST_CHANGES = 45
"""How many changes a session's metadata have room for."""
SECRET = "storm-secret-value"
"""The beginning of every secret's value, which nobody may ever see again."""
REFUSED = "storm-refused"
"""A text of all requests that must be refused, which must not be stored."""
DECISIONS = ("allow", "allow", "allow", "reject")
USER = "storm"
"""The beginning of every message that a client posts."""


@dataclass
class Fork:
    """A copy of a session up to a sequence of its log."""

    id: str
    source: str
    through: int


@dataclass
class Acknowledged:
    """What servers have acknowledged, apart from messages."""

    changes: dict[str, dict[str, str]] = field(default_factory=dict)
    """The metadata that clients have set, by session."""
    decisions: list[tuple[str, str, str]] = field(default_factory=list)
    """Session, call and decision."""
    forks: list[Fork] = field(default_factory=list)
    cancels: int = 0
    budgets: int = 0


class RolesStorm(MoneyStorm):
    """The clients.

    Attributes:
        sessions: what clients know of the sessions that they follow, by id.
        logs: the logs of these sessions in the end, as servers return them.
        acknowledged: what servers have acknowledged, apart from messages.
        refusals: bad requests that were refused, and requests of strangers.
        leaks: requests whose answer had the value of a secret.
        over_limit: what was wrong with money when all work was done or parked.
        rested: seconds until everything was over after the last fault; None if it never was.
    """

    def __init__(
        self, urls: list[str], chance: random.Random, data: Path, database_url: str, *, sessions: int
    ) -> None:
        super().__init__(urls, chance, data, database_url, small=False)
        self.sessions: dict[str, Session] = {}
        self.logs: dict[str, list[Json]] = {}
        self.acknowledged = Acknowledged()
        self.refusals: Counter[str] = Counter()
        self.leaks: list[str] = []
        self.over_limit: list[str] = []
        self.rested: float | None = None
        self._count = sessions
        self._first = 5 * FIRST
        self._more_capabilities = (
            {"ref": "effects"},
            {"ref": "session_file_system"},
            {"ref": "session_storage"},
            {"ref": "tool_approval", "config": {"mode": "normal"}},
        )
        self._http.timeout = httpx.Timeout(6)  # a process that stands still does not answer
        self._streams = httpx.AsyncClient(timeout=45, limits=httpx.Limits(max_connections=None))
        self.followers = Followers(urls, chance, self._streams, self._saw)
        self._group = asyncio.TaskGroup()
        self._following: list[asyncio.Task[None]] = []
        self._over = False
        self._stranger = ""

    async def endure(self, fleet: Fleet, transactions: Transactions, seconds: int) -> None:
        """Disturb the fleet every second while clients work; return when nothing is left to do."""
        async with self._http, self._streams, self._group:
            await self._begin()
            watching = self._group.create_task(transactions.watch())
            clients = [self._group.create_task(self._work()) for _ in range(max(8, self._count // 8))]
            began = time.monotonic()
            for second in range(seconds):
                fleet.disturb()
                await asyncio.sleep(max(0.0, began + second + 1 - time.monotonic()))
            await fleet.calm()
            self._over = True
            await asyncio.gather(*clients)
            watching.cancel()
            began = time.monotonic()
            try:
                async with asyncio.timeout(REST):
                    await self._rest()
                    await self._all_seen()
                self.rested = time.monotonic() - began
            except TimeoutError:
                print(f"not over after {REST:.0f} s: {await self._sql(UNFINISHED)}")
            except AssertionError as error:
                self.over_limit.append(str(error))
            for session in self.sessions.values():
                self.logs[session.id] = await self._whole_log(session)
            for follower in self._following:
                follower.cancel()

    async def _begin(self) -> None:
        """Create the sessions, each with a budget and a secret, and follow them."""
        orgs = await self._send("GET", "/v1/orgs", None, 200)
        self._stranger = str((await self._send("POST", "/v1/orgs", {"name": "Strangers"}, 201))["id"])
        for client in (self._http, self._streams):
            client.headers["x-org-id"] = orgs["data"][0]["id"]
        for number in range(self._count):
            root = await self._create()
            self.roots.append(root)
            secret = {"secrets": {"TOKEN": f"{SECRET}-{number}"}}
            await self._send("PUT", f"/v1/sessions/{root}/storage/secrets", secret, 200)
            self._follow(root)

    def _follow(self, session_id: str) -> None:
        session = self.sessions[session_id] = Session(session_id)
        self._following.append(self._group.create_task(self.followers.follow(session)))

    async def _all_seen(self) -> None:
        """Wait until followers have the last event of each log."""
        for session in self.sessions.values():
            total = (await self._send("GET", session.path("/events/summary"), None, 200))["total"]
            while len(session.seen) < total:
                await asyncio.sleep(AWAY)

    async def _send(self, method: str, path: str, body: Json | None, *expected: int, **headers: str) -> Json:
        answer = await super()._send(method, path, body, *expected, **headers)
        if SECRET in json.dumps(answer):
            self.leaks.append(f"{method} {path}")
        return answer

    async def _whole_log(self, session: Session) -> list[Json]:
        log: list[Json] = []
        while True:
            page = session.path(f"/events?limit=500&after_sequence={len(log)}")
            if not (found := (await self._send("GET", page, None, 200))["data"]):
                return log
            log += found

    # --- clients ---------------------------------------------------------------

    async def _work(self) -> None:
        """Do one thing after the other, until the storm is over."""
        actions: list[tuple[int, Callable[[Session], Awaitable[None]]]] = [
            (60, self._post),
            (10, self._grow),
            (10, self._change),
            (6, self._cancel),
            (4, self._below_root),
            (2, self._fork),
            (6, self._raise_budget),
            (6, self._send_nonsense),
            (6, self._look_from_elsewhere),
        ]
        weights = [weight for weight, _ in actions]
        while not self._over:
            ((_, act),) = self.chance.choices(actions, weights)
            await act(self.chance.choice(list(self.sessions.values())))
            await asyncio.sleep(self.chance.random() * 0.2)

    async def _post(self, session: Session) -> None:
        await self._say(session.id, script(*self._steps(), ask=self._name()))

    async def _grow(self, session: Session) -> None:
        await self._say(session.id, grown(self.chance, self._name(), slow=True))

    def _name(self) -> str:
        return f"{USER} {self.chance.getrandbits(48):x}"

    async def _say(self, session_id: str, text: str) -> None:
        busy = self.chance.choice(["steer", "steer", "queue", "interrupt"])
        body = body_of(text, controls={"when_busy": busy})
        message = await self._send("POST", f"/v1/sessions/{session_id}/messages", body, 201)
        if "sequence" in message:
            self.sessions[session_id].acknowledged.append(message)

    def _steps(self) -> list[Json]:
        """A random script: effects, calls that need approval, slow and broken answers."""
        chance = self.chance
        names = chance.choices(["charge", "asked", "repeatable"], k=chance.choice([1, 1, 3]))
        effects = [call(name) for name in names]
        file = f"/{chance.getrandbits(32):x}"
        rounds: list[Json] = chance.choice(
            [
                [],
                [{"tool_calls": effects, "first_ms": chance.randrange(30)}],
                [{"tool_calls": [call("order", how=chance.choice(["idempotent", "verify", ""]))]}],
                [{"tool_calls": [call("resumable", how="verify")]}],
                [
                    {"tool_calls": effects},
                    {"text": "More.", "tool_calls": [call("secret_store", operation="get", key="TOKEN")]},
                ],
                [
                    {"tool_calls": [call("write_file", path=file, content="x")]},
                    {"tool_calls": [call("delete_file", path=file), *effects]},
                ],
            ]
        )
        last: Json = {"text": "An answer. " * 3, "first_ms": chance.randrange(100)}
        if chance.random() < 0.08:
            last["first_ms"] = SLOW_MS
        elif chance.random() < 0.1:
            last |= {"cut_after": 2, "cut_times": 1}
        return [*rounds, last]

    async def _change(self, session: Session) -> None:
        changes = self.acknowledged.changes.setdefault(session.id, {})
        if len(changes) >= MOST_CHANGES:
            return
        name = f"n{self.chance.getrandbits(40):x}"
        body = {"metadata": {name: "set"}}
        answer = await self._send("PATCH", session.path(), body, 200)
        if answer.get("metadata", {}).get(name) == "set":
            changes[name] = "set"

    async def _cancel(self, session: Session) -> None:
        await self._send("POST", session.path("/cancel"), None, 200)
        self.acknowledged.cancels += 1

    async def _below_root(self, session: Session) -> None:
        """Cancel or delete a sub-agent somewhere in the tree, if there is one."""
        child = await self._below(session.id)
        if child is None:
            return
        if self.chance.random() < 0.5:
            await self._send("POST", f"/v1/sessions/{child}/cancel", None, 200, 404)
        else:
            await self._send("DELETE", f"/v1/sessions/{child}", None, 200, 204, 404)

    async def _fork(self, session: Session) -> None:
        if not session.seen or len(self.acknowledged.forks) >= self._count // 2:
            return
        through = self.chance.randint(1, session.seen[-1]["sequence"])
        made = await self._send("POST", session.path("/fork"), {"from_sequence": through}, 201)
        if "id" in made:
            self.acknowledged.forks.append(Fork(made["id"], session.id, through))
            self._follow(made["id"])

    async def _raise_budget(self, session: Session) -> None:
        found = await self._send("GET", session.path("/budgets"), None, 200)
        for budget in found.get("data", []):
            if budget["subject_type"] == "session":
                body = {"limit": budget["limit"] + FIRST}
                await self._send("PATCH", f"/v1/budgets/{budget['id']}", body, 200)
                self.acknowledged.budgets += 1

    # --- approvals -------------------------------------------------------------

    async def _saw(self, session: Session, event: Json) -> None:
        if event["type"] == "tool.call_requested":
            self._group.create_task(self._decide(session, event))

    async def _decide(self, session: Session, event: Json) -> None:
        """Decide the calls of the event, unless the turn has gone on without a decision."""
        decisions = [
            {"tool_call_id": call_of_question(each["id"]), "decision": self.chance.choice(DECISIONS)}
            for each in event["data"]["tool_calls"]
        ]
        body = {"decisions": decisions}
        answer = await self._send("POST", session.path("/tool-approvals"), body, 200, 400, 409)
        if "code" not in answer:
            self.acknowledged.decisions += [
                (session.id, each["tool_call_id"], each["decision"]) for each in decisions
            ]

    # --- what must be refused --------------------------------------------------

    async def _send_nonsense(self, session: Session) -> None:
        """Send a request that must be refused, and must change nothing."""
        method, path, body, status = self.chance.choice(
            [
                ("POST", session.path("/messages"), {"message": {"role": "user", "content": REFUSED}}, 400),
                ("POST", session.path("/messages"), {"text": REFUSED}, 400),
                ("POST", session.path("/fork"), {"from_sequence": 10**8, "title": REFUSED}, 400),
                ("POST", session.path("/tool-approvals"), {"decisions": REFUSED}, 400),
                ("PATCH", session.path(), {"title": REFUSED, "tags": [5]}, 400),
                ("PATCH", session.path(), {"metadata": {"a b": REFUSED}}, 400),
                ("POST", "/v1/sessions", {"title": REFUSED, "agent_id": "nobody"}, 400),
                ("PUT", session.path("/storage/secrets"), {"secrets": {"x": 1, "y": REFUSED}}, 400),
                ("GET", session.path("/events?limit=-1"), None, 400),
                ("GET", "/v1/sessions/session_" + "0" * 32, None, 404),
            ]
        )
        await self._send(method, path, body, status)
        self.refusals["nonsense"] += 1

    async def _look_from_elsewhere(self, session: Session) -> None:
        """Do something with a session as a member of another organization."""
        method, path, body = self.chance.choice(
            [
                ("GET", "", None),
                ("GET", "/events", None),
                ("GET", "/sse", None),
                ("GET", "/storage/secrets", None),
                ("PATCH", "", {"title": REFUSED}),
                ("POST", "/messages", body_of(REFUSED)),
                ("POST", "/cancel", None),
                ("POST", "/fork", {}),
                ("DELETE", "", None),
            ]
        )
        headers = {"x-org-id": self._stranger}
        await self._send(method, session.path(path), body, 404, **headers)
        self.refusals["strangers"] += 1
