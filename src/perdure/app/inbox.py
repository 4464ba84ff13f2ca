"""The inbox: what the sessions of an organization wait for that a person decides."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.approvals import check_edited, decide_calls, decided_by, is_overdue, with_standing
from perdure.app.at_head import tell_followers, write_at_head
from perdure.app.confidential import check_row
from perdure.app.context import App
from perdure.app.edited_arguments import Edit, check_edits, parameters_of, waiting_agent
from perdure.app.inbox_items import (
    ItemView,
    Question,
    approvers_of,
    asked_by,
    input_requests_for,
    question_at,
    view_of,
)
from perdure.app.inbox_outcomes import outcome_of
from perdure.app.questions import Wanted, check_answers, end_calls
from perdure.domain.accounts import Caller
from perdure.domain.calls import CallState, Parked
from perdure.domain.errors import Conflict, Gone, InvalidInput, NotFound, PerdureError
from perdure.domain.inbox import DecideItem, Decider, InboxItem, InboxOutcome, ItemRef, parse_item_id
from perdure.domain.messages import JsonObject
from perdure.domain.questions import Answers
from perdure.domain.turn import Calling, TurnState, parked_calls
from perdure.store.database import Tx
from perdure.store.inbox import names_of_agents
from perdure.store.parked_turns import read_turn
from perdure.store.sessions import SessionRow, get_session


class _Opened(Struct, frozen=True):
    """An item as its session's log has it. `call` is the call that waits; None if it is no longer open.

    Attributes:
        sequence: that of the event that asks.
    """

    sequence: int
    row: SessionRow
    state: TurnState
    question: Question
    call: CallState | None

    @property
    def waits(self) -> bool:
        """Whether it is still in the inbox."""
        parked = self.row.parked_calls()
        return self.call is not None or any(
            call.kind == "budget" and call.asked_at == self.sequence for call in parked
        )


async def read_item(app: App, caller: Caller, item_id: str) -> InboxItem:
    """Read an item, with all arguments and their schema; of one that was decided, also the outcome.

    Raises:
        InvalidInput: the id is malformed.
        NotFound: the organization has no such item.
    """
    ref = parse_item_id(item_id)

    async def work(tx: Tx) -> InboxItem:
        opened = await _open(app, tx, caller, ref)
        outcome = None if opened.waits else await outcome_of(tx, opened.row, ref, opened.question)
        return await _shown(app, tx, caller, ref, opened, outcome)

    item = await app.database.read(work, long=True)
    if item.kind != "approval" or item.outcome is not None:
        return item
    return replace(item, schema=await _schema(app, caller, item))


async def _schema(app: App, caller: Caller, item: InboxItem) -> JsonObject | None:
    """The schema of the call's arguments; None if the agent cannot be resolved or has no such tool now."""
    try:
        agent = await waiting_agent(app, caller.organization_id, item.session_id)
    except PerdureError as error:
        if error.retryable:
            raise
        return None
    return parameters_of(agent, item.tool_name)


async def decide_item(app: App, decider: Decider, item_id: str, body: DecideItem) -> InboxItem:
    """Decide on an item or answer it, and return it with that as its outcome.

    Raises:
        InvalidInput: the id is malformed; the edited arguments do not fit the tool's schema; the answers do
            not fit the questions.
        NotFound: the organization has no such item.
        Forbidden: the decider may not decide so.
        Conflict: somebody has decided already, or the item is of another kind.
        Gone: it expired or was withdrawn.
    """
    ref, caller, decision = parse_item_id(item_id), decider.caller, body.decision
    if body.answers is not None:
        return await _answer_item(app, decider, ref, body, body.answers)
    if decision is None:
        raise InvalidInput(
            "`decision`: it is missing: send a `decision` on an approval, or `answers` to questions",
            field="decision",
        )
    check_edited(decision, body.arguments, "arguments")
    if body.arguments is not None:
        opened = await app.database.read(lambda tx: _open(app, tx, caller, ref))
        if opened.call is not None:
            edit = Edit(opened.question.tool_name, body.arguments, "arguments")
            await check_edits(app, caller.organization_id, ref.session_id, [edit])
    now = app.now()

    async def work(tx: Tx) -> InboxItem:
        opened = await _open(app, tx, caller, ref, lock=True)
        row, state, call = opened.row, opened.state, opened.call
        if opened.question.kind == "budget" and opened.waits:
            raise Conflict(
                f"this item is not an approval: raise the limit of {opened.question.budget_id}, or top it up",
                code="not_an_approval",
            )
        if call is None or not isinstance(state, Calling):
            raise _closed(await outcome_of(tx, row, ref, opened.question))
        if opened.question.kind != "approval":
            raise Conflict(
                f"this item is not an approval but of the kind {opened.question.kind!r}: `input_requests` or "
                "`questions` of the item say how to answer it",
                code="not_an_approval",
            )
        if row.status != "waiting_for_tool_results":
            raise _withdrawn()
        if is_overdue(call, now):
            raise _expired()
        decided = decided_by(decider, decision, body.arguments, body.reason)
        verdicts = with_standing(parked_calls(state, "approval"), {call.id: decided})
        after, stored = await decide_calls(app, tx, row, state, caller, verdicts, now)
        tell_followers(app, tx, after, stored)
        made = await outcome_of(tx, after, ref, opened.question)
        return await _shown(app, tx, caller, ref, opened, made)

    return await write_at_head(app, work)


async def _answer_item(
    app: App, decider: Decider, ref: ItemRef, body: DecideItem, answers: Answers
) -> InboxItem:
    """Answer the questions of an item."""
    caller = decider.caller
    if body.decision is not None or body.arguments is not None or body.reason is not None:
        raise InvalidInput("`answers`: send them without anything else", field="answers")
    opened = await app.database.read(lambda tx: _open_question(app, tx, caller, ref))
    wanted = Wanted(opened.question.call_id, answers, "answers")
    try:
        answered = await check_answers(app, caller, ref.session_id, [wanted])
    except Gone:
        # The log says who was faster.
        await app.database.read(lambda tx: _open_question(app, tx, caller, ref))
        raise

    async def work(tx: Tx) -> InboxItem:
        again = await _open_question(app, tx, caller, ref, lock=True)
        if not isinstance(again.state, Calling):
            raise _withdrawn()
        after = await end_calls(app, tx, again.row, again.state, answered, decider, app.now())
        made = await outcome_of(tx, after, ref, again.question)
        return await _shown(app, tx, caller, ref, again, made)

    return await write_at_head(app, work)


async def _open_question(app: App, tx: Tx, caller: Caller, ref: ItemRef, *, lock: bool = False) -> _Opened:
    """Open an item whose questions wait for answers. Raises as `decide_item`."""
    opened = await _open(app, tx, caller, ref, lock=lock)
    if opened.question.kind != "question":
        raise Conflict(
            f"this item asks no questions, but is of the kind {opened.question.kind!r}",
            code="not_a_question",
        )
    if opened.call is None:
        raise _closed(await outcome_of(tx, opened.row, ref, opened.question))
    if is_overdue(opened.call, app.now()):
        raise _expired()
    return opened


async def _open(app: App, tx: Tx, caller: Caller, ref: ItemRef, *, lock: bool = False) -> _Opened:
    try:
        row = await get_session(tx, caller.organization_id, ref.session_id, lock=lock)
        await check_row(tx, caller, row, app.now() if lock else None)
    except NotFound:
        raise NotFound("inbox item") from None
    question = await question_at(tx, ref)
    if question is None:
        raise NotFound("inbox item")
    state = await read_turn(tx, row, app.turns)
    return _Opened(ref.sequence, row, state, question, _call_of(state, ref))


def _call_of(state: TurnState, ref: ItemRef) -> CallState | None:
    """The call that waits for this item."""
    for call in state.calls if isinstance(state, Calling) else ():
        match call.status:
            case Parked(asked_at=ref.sequence, index=ref.index):
                return call
    return None


async def _shown(
    app: App, tx: Tx, caller: Caller, ref: ItemRef, opened: _Opened, outcome: InboxOutcome | None
) -> InboxItem:
    row, question = opened.row, opened.question
    names = await names_of_agents(tx, row.org_id, {row.agent_id} if row.agent_id else set())
    requests = () if outcome is not None else await input_requests_for(app, tx, row, question)
    approvers = await approvers_of(tx, row.org_id, row.id, question)
    agent = names.get(row.agent_id) if row.agent_id else None
    asker = await asked_by(tx, row.org_id, ref, row.agent_id)
    view = ItemView(row.id, row.title, row.agent_id, agent, approvers, asker)
    allowed = outcome is None and approvers.include(caller, row.owner_id)
    return view_of(ref, question, view, you_may_decide=allowed, requests=requests, outcome=outcome)


def _closed(outcome: InboxOutcome) -> Conflict | Gone:
    """The error for a decision on an item that has left the inbox."""
    if outcome.status == "expired":
        return _expired()
    decided = outcome.decided
    if outcome.status == "withdrawn":
        return _withdrawn()
    if decided is None:
        answered = outcome.answered
        who = "" if answered is None else f" by {answered.by} through {answered.via} at {outcome.at}"
        return Conflict(f"this item was answered already{who}", code="already_decided")
    who = f" by {decided.by}" if decided.by else ""
    return Conflict(
        f"this item was decided already: {decided.decision}{who} through {decided.via} at {outcome.at}",
        code="already_decided",
    )


def _expired() -> Gone:
    return Gone("the deadline of this item has passed: nothing waits for it any more", code="item_expired")


def _withdrawn() -> Gone:
    return Gone(
        "nothing waits for this decision any more: a new message, a cancel or the turn's end came first",
        code="item_withdrawn",
    )
