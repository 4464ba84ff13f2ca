"""The client: sends requests, records what was acknowledged, and tolerates servers that die."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from perdure.app.approvals import submit_approvals
from perdure.app.callbacks import answer_callback
from perdure.app.inbox_links import create_link, decide_by_link, read_link
from perdure.app.input_requests import answer_input, list_input_requests, resume_signed_in
from perdure.app.messages import post_message, submit_tool_results
from perdure.app.participants import add_participant
from perdure.app.questions import submit_results
from perdure.app.session_ends import cancel_turn, delete_session
from perdure.app.sessions import change_session, create_session
from perdure.domain.callbacks import CallbackResult
from perdure.domain.calls import Parked
from perdure.domain.decisions import Decision
from perdure.domain.errors import Conflict, Gone, InvalidInput, NotFound, Unavailable
from perdure.domain.ids import InputRequestId
from perdure.domain.inbox import Decider, InboxItemId, item_id
from perdure.domain.inbox_links import CreateLink, DecideByLink, LinkChoice
from perdure.domain.input_requests import AnswerInput
from perdure.domain.messages import Controls, CreateMessage, InputMessage, JsonObject, TextPart, WhenBusy
from perdure.domain.participants import AddSessionParticipant
from perdure.domain.sessions import CreateSession, UpdateSession
from perdure.domain.times import from_rfc3339
from perdure.domain.tools import (
    ApprovalDecision,
    CapabilityRef,
    ClientSideTool,
    SubmitApprovals,
    SubmitToolResults,
    ToolCallResult,
)
from perdure.domain.turn import Idle, fold, parked_calls
from tests.simulation.callbacks import SKEW, KnownCallback, judge_refusal
from tests.simulation.consents import store_grant
from tests.simulation.model import message_text
from tests.simulation.scenarios import CLIENT_TOOL, FIRST, SECOND
from tests.simulation.store import Witness
from tests.simulation.world import Crash, Process, World


class Client:
    """Sends requests to the processes of one world. A request runs in its process, and dies with it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sent = 0
        self._links: list[tuple[InboxItemId, str]] = []
        self._decided: set[InboxItemId] = set()

    def server(self) -> Process:
        """A live process; starts one if there is none."""
        live = self.world.live()
        return self.world.rng.choice(live) if live else self.world.start()

    async def create(self) -> None:
        """Create the session, and the witness that checks its commits."""
        world, scenario = self.world, self.world.scenario
        refs = [CapabilityRef("simulation")]
        if scenario.approvals:
            refs.append(CapabilityRef("tool_approval", {"mode": "protective"}))
        if scenario.compaction:
            refs.append(CapabilityRef("context_compaction"))
        if scenario.tree:
            refs += [CapabilityRef("subagents"), CapabilityRef("background_tools")]
        body = CreateSession(
            harness_name="base",
            capabilities=tuple(refs),
            tools=(ClientSideTool(CLIENT_TOOL, "Ask.", {"type": "object"}),),
            max_iterations=scenario.max_iterations,
            fallback_models=(world.store.spare,) if scenario.fallback else (),
            agent_name=None if scenario.history is None else f"{FIRST}-{scenario.history}",
        )
        app, caller = self.server().app, world.store.caller
        world.session_id = (await create_session(app, caller, body)).id
        if scenario.history is not None:
            second = AddSessionParticipant("agent", world.store.agents[f"{SECOND}-{scenario.history}"])
            await add_participant(app, caller, world.session_id, second)
        world.witness = Witness(world.store, world.session_id, world.blame)

    async def post(
        self,
        script: int | None,
        server: Process | None = None,
        when_busy: WhenBusy | None = None,
        to: str = "",
    ) -> bool:
        """Post a message, perhaps to a participant; returns whether it was acknowledged."""
        self.sent += 1
        schema = {"type": "integer"} if self.world.scenario.typed else None
        controls = Controls(when_busy=when_busy, output_schema=schema) if when_busy or schema else None
        metadata = {"cancel_notice": True} if self.sent % 3 == 0 else None  # clients may send any metadata
        content = (TextPart(f"{to} {message_text(self.sent, script)}".lstrip()),)
        body = CreateMessage(InputMessage(content), controls=controls, metadata=metadata)

        async def call(process: Process) -> None:
            message = await post_message(process.app, self.world.store.caller, self.world.session_id, body)
            self.world.told.messages[message.id] = message.sequence or 0

        return await self._ask(when_busy or "post", call, server)

    async def cancel(self, server: Process | None = None) -> None:
        await self._ask(
            "cancel",
            lambda process: cancel_turn(process.app, self.world.store.caller, self.world.session_id),
            server,
        )

    async def delete(self, server: Process | None = None) -> None:
        async def call(process: Process) -> None:
            await delete_session(process.app, self.world.store.caller, self.world.session_id)
            self.world.told.deleted = True

        self.world.told.deletion_tried = True
        await self._ask("delete", call, server)

    async def patch(self, server: Process | None = None) -> None:
        body = UpdateSession(title=f"title {self.world.loop.now}")
        await self._ask(
            "patch",
            lambda process: change_session(process.app, self.world.store.caller, self.world.session_id, body),
            server,
        )

    async def answer(
        self,
        decision: Decision = "allow",
        limit: int | None = None,
        server: Process | None = None,
        edited: JsonObject | None = None,
    ) -> None:
        """Send the results, or the decisions on the first `limit` approvals, that the session waits for."""
        row = self.world.store.row(self.world.session_id)
        state = fold(self.world.log()[row.turn_after :], Idle(head=row.turn_after))
        approvals, calls = parked_calls(state, "approval")[:limit], parked_calls(state, "client")

        async def call(process: Process) -> None:
            caller, session_id = self.world.store.caller, self.world.session_id
            if approvals:
                decisions = tuple(ApprovalDecision(call.id, decision, edited) for call in approvals)
                await submit_approvals(process.app, Decider(caller), session_id, SubmitApprovals(decisions))
            else:
                results = tuple(ToolCallResult(call.id, {"said": "yes"}) for call in calls)
                await submit_tool_results(process.app, caller, session_id, SubmitToolResults(results))

        if approvals or calls:
            await self._ask("answer", call, server)

    async def decide_by_link(self, decision: LinkChoice, server: Process | None = None) -> None:
        """Decide on the first approval by a link, perhaps by one that was used before."""
        row = self.world.store.row(self.world.session_id)
        state = fold(self.world.log()[row.turn_after :], Idle(head=row.turn_after))
        waiting = parked_calls(state, "approval")[:1]
        if not waiting and not self._links:
            return
        again = not waiting or (bool(self._links) and self.world.rng.random() < 0.3)

        async def call(process: Process) -> None:
            app, caller = process.app, self.world.store.caller
            if again:
                item, token = self.world.rng.choice(self._links)
            else:
                (status,) = [each.status for each in waiting]
                assert isinstance(status, Parked)
                item = item_id(self.world.session_id, status.asked_at, status.index)
                made = await create_link(app, caller, item, CreateLink())
                token = made.url.rpartition("/")[2]
                self._links.append((item, token))
            shown = (await read_link(app, token)).shown
            await decide_by_link(app, token, DecideByLink(shown, decision), None, None)
            if item in self._decided:
                self.world.blame(f"{item} was decided twice")
            self._decided.add(item)

        await self._ask("link", call, server)

    async def call_back(self, server: Process | None = None) -> None:
        """Give one of the known callbacks a value: perhaps a second one, or the same one again."""
        if not self.world.callbacks:
            return
        known = self.world.rng.choice(self.world.callbacks)
        before = [*known.accepted, *known.unknown]
        if before and self.world.rng.random() < 0.5:
            await self._call_back_again(known, self.world.rng.choice(before), server)
            return
        self.sent += 1
        value = f"value {self.sent}"
        known.send(value, self.world.now())

        async def call(process: Process) -> None:
            try:
                await answer_callback(process.app, known.token, CallbackResult(value))
            except Gone:
                known.unknown.remove(value)
                judge_refusal(self.world, known)
                raise
            known.accept(value)
            if self.world.now() > known.deadline + SKEW:
                self.world.blame(f"{value!r} was accepted after the deadline")

        await self._ask("callback", call, server)

    async def _call_back_again(self, known: KnownCallback, value: str, server: Process | None) -> None:
        """Repeat a request, as a sender does that got no response."""

        async def call(process: Process) -> None:
            try:
                await answer_callback(process.app, known.token, CallbackResult(value))
            except Gone:
                if known.must_know(value, self.world.now()) and not self.world.told.deletion_tried:
                    self.world.blame(f"{value!r} was accepted, and is refused when it is repeated")
                raise
            known.accept(value)

        await self._ask("callback", call, server)

    async def consent(self, server: Process | None = None) -> None:
        """Answer one of the open questions, perhaps twice."""
        caller, session_id, rng = self.world.store.caller, self.world.session_id, self.world.rng

        async def call(process: Process) -> None:
            asked = await list_input_requests(process.app, caller, session_id)
            forms = [each for each in asked if each.mode == "form"]
            for each in forms:
                self.world.consents.ask(each.id, from_rfc3339(each.expires_at))
            if not self.world.consents.asked:
                return
            chosen, known = rng.choice(list(self.world.consents.asked.items()))
            action = rng.choice(("accept", "decline"))
            known.unknown += 1
            try:
                await answer_input(
                    process.app, caller, session_id, InputRequestId(chosen), AnswerInput(action)
                )
            except (Gone, NotFound):
                known.unknown -= 1
                raise
            known.unknown -= 1
            known.accepted += 1
            if self.world.now() > known.deadline + SKEW:
                self.world.blame("an answer was accepted after the deadline")

        await self._ask("consent", call, server)

    async def reply(self, server: Process | None = None) -> None:
        """Answer one of the agent's questions, of which another request may be faster."""
        session_id, rng, consents = self.world.session_id, self.world.rng, self.world.consents
        row = self.world.store.row(session_id)
        asked = [each for each in row.parked_calls() if each.kind == "question"]
        if not asked:
            return
        chosen = rng.choice(asked)
        answers = {"q": rng.choice(("yes", "no", None)), "s": rng.choice(("2468-1357", None))}
        body = SubmitToolResults((ToolCallResult(chosen.tool_call_id, {"answers": answers}),))

        async def call(process: Process) -> None:
            consents.perhaps += 1
            try:
                await submit_results(process.app, Decider(self.world.store.caller), session_id, body)
            except (Gone, Conflict, InvalidInput, NotFound):
                consents.perhaps -= 1
                raise
            consents.perhaps -= 1
            consents.replied += 1
            if self.world.now() > chosen.until + SKEW:
                self.world.blame("an answer was accepted after the deadline")

        await self._ask("reply", call, server)

    async def sign_in(self, server: Process | None = None) -> None:
        """Sign in, and resume what waits for it."""

        async def call(process: Process) -> None:
            await store_grant(process.app, self.world)
            self.world.consents.signed_in_at = self.world.now()
            await resume_signed_in(process.app)

        await self._ask("sign_in", call, server)

    async def _ask(
        self, what: str, call: Callable[[Process], Awaitable[Any]], server: Process | None
    ) -> bool:
        """Send a request to a process; returns whether it succeeded."""
        process = server or self.server()
        task = process.spawn(self._serve(what, call, process))
        await asyncio.wait([task])
        return not task.cancelled() and task.result()

    async def _serve(self, what: str, call: Callable[[Process], Awaitable[Any]], process: Process) -> bool:
        error: BaseException | None = None
        try:
            await call(process)
        except BaseException as raised:  # noqa: BLE001 - judged below
            error = raised
        self.world.note(f"{process.name} {what}: {'done' if error is None else repr(error)}")
        allowed: tuple[type[BaseException], ...] = (Crash, Unavailable, asyncio.CancelledError)
        if what == "answer":
            allowed += (Conflict, InvalidInput)  # another request answered first
        if what == "reply":
            allowed += (Conflict, InvalidInput, Gone)
        if what == "reject":
            allowed += (Conflict,)
        if what in ("link", "consent"):
            allowed += (Gone, NotFound)
        if what == "callback":
            allowed += (Gone,)
        if self.world.told.deletion_tried:
            allowed += (NotFound,)
        if error is not None and not isinstance(error, allowed):
            self.world.blame(f"the request {what} failed: {error!r}")
        return error is None
