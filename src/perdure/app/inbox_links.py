"""Links to items of the inbox: create one, show its item, decide by it.

A link decides on the authority of its maker, as it is when the link is used: a maker who may not decide any
more has made a link that does not work any more.
"""

from __future__ import annotations

import secrets

from msgspec import convert

from perdure.app.context import App
from perdure.app.inbox import decide_item, read_item
from perdure.domain.accounts import Caller
from perdure.domain.callbacks import hash_of_token, is_signed, sign_token
from perdure.domain.decisions import LinkUse
from perdure.domain.errors import Conflict, Forbidden, Gone, InvalidInput, NotFound
from perdure.domain.inbox import DecideItem, Decider, InboxItem
from perdure.domain.inbox_links import (
    LINK_PREFIX,
    MAX_LINKS,
    CreateLink,
    DecideByLink,
    InboxLink,
    LinkDecision,
    LinkedItem,
    linked,
)
from perdure.domain.questions import Asked
from perdure.domain.times import from_rfc3339, to_rfc3339
from perdure.domain.visible import without_hidden
from perdure.store.accounts import is_current, memberships_of
from perdure.store.database import Tx
from perdure.store.inbox_links import (
    InboxLinkRow,
    add_inbox_link,
    count_inbox_links,
    inbox_link_by_hash,
)

PLACE = "/v1/links/"
"""Where links lead, before the token."""


def admit_link(app: App, token: str) -> None:
    """Check a link's token before anything is read for it, as for callbacks (decision 41).

    Raises:
        Gone: nobody has issued this token.
        RateLimited: it is used too often.
    """
    if not is_signed(app.callback_key, token, LINK_PREFIX):
        raise _gone()
    app.callback_limit.take(hash_of_token(token))


async def create_link(app: App, caller: Caller, item_id: str, body: CreateLink) -> InboxLink:
    """Create a link by which whoever has it can decide an item, until the item's deadline at the latest.

    Raises:
        InvalidInput: the id is malformed.
        NotFound: the organization has no such item.
        Forbidden: the caller may not decide on the item, so no link of the caller's may.
        Conflict: the item is neither an approval nor a question, or has as many links as are allowed.
        Gone: the item has left the inbox.
    """
    item = await read_item(app, caller, item_id)
    _check_open(item)
    if not item.you_may_decide:
        raise Forbidden(
            f"only {item.may_decide} may decide on this call, or make a link for it", code="not_an_approver"
        )
    now = app.now()
    deadline = from_rfc3339(item.expires_at)
    if body.expires_in_seconds is not None:
        deadline = min(deadline, now + body.expires_in_seconds * 1_000_000)
    token = sign_token(app.callback_key, secrets.token_urlsafe(32), LINK_PREFIX)
    row = InboxLinkRow(
        hash_of_token(token), caller.organization_id, item.id, caller.user_id, caller.token_id, now, deadline
    )

    async def work(tx: Tx) -> None:
        if await count_inbox_links(tx, row.org_id, row.item_id, now) >= MAX_LINKS:
            raise Conflict(
                f"the item has {MAX_LINKS} links, and more are not allowed: use one of them",
                code="too_many_links",
            )
        await add_inbox_link(tx, row)

    await app.database.write(work)
    return InboxLink(f"{app.public.url}{PLACE}{token}", to_rfc3339(deadline))


async def read_link(app: App, token: str) -> LinkedItem:
    """Show the item of a link. It changes nothing.

    Raises:
        Gone: the link was never valid, or is not valid any more.
    """
    row, caller = await _find(app, token)
    return linked(await _item_of(app, row, caller), to_rfc3339(row.deadline))


async def decide_by_link(
    app: App, token: str, body: DecideByLink, address: str | None, user_agent: str | None
) -> LinkDecision:
    """Decide on the item of a link, once. The log says who made the link, and where the decision came from.

    Args:
        app: the services.
        token: the link's token.
        body: the decision, with the digest of what the person saw.
        address: the network address that the decision comes from.
        user_agent: the program that sends it.

    Raises:
        Gone: the link was never valid, or is not valid any more: also once the item is decided.
        Conflict: the person saw something else than what would run.
        Forbidden: the call is too long to be shown, so a link cannot allow it.
    """
    row, caller = await _find(app, token)
    shown = linked(await _item_of(app, row, caller), to_rfc3339(row.deadline))
    if body.shown != shown.shown:
        raise Conflict(
            "`shown` is not the digest of what this link shows: read it again, and decide on that",
            code="shown_differs",
        )
    if shown.truncated and body.decision == "allow":
        raise Forbidden(
            "the call is too long to be shown here, so this link can only reject it: decide with a login",
            code="too_long_for_link",
        )
    decider = Decider(
        caller,
        "link",
        address,
        user_agent,
        shown.shown,
        LinkUse(row.made_by, to_rfc3339(row.created_at)),
    )
    try:
        await decide_item(app, decider, row.item_id, _decision(body, shown))
    except (NotFound, Conflict, Forbidden):
        raise _gone() from None
    return LinkDecision(decision=body.decision or "answer")


def _decision(body: DecideByLink, shown: LinkedItem) -> DecideItem:
    """What is decided. Who has the link need not be known to anybody: nothing hidden reaches the model.

    Raises:
        InvalidInput: the item wants something else.
    """
    reason = None if body.reason is None else without_hidden(body.reason)
    if shown.kind != "question":
        if body.answers is not None:
            raise InvalidInput("`answers`: this link asks for a `decision`", field="answers")
        return DecideItem(body.decision, reason=reason)
    if body.answers is None or body.decision is not None:
        raise InvalidInput("`answers`: this link asks questions, so send `answers` to them", field="answers")
    questions = convert(shown.arguments, Asked).questions
    secrets = {each.id for each in questions if each.type == "secret"}
    clean = {
        name: value if value is None or name in secrets else without_hidden(value)
        for name, value in body.answers.items()
    }
    return DecideItem(answers=clean)


async def _find(app: App, token: str) -> tuple[InboxLinkRow, Caller]:
    """The link of a token, and its maker as a caller. Raises Gone."""
    if not is_signed(app.callback_key, token, LINK_PREFIX):
        raise _gone()
    now = app.now()

    async def work(tx: Tx) -> tuple[InboxLinkRow, Caller]:
        row = await inbox_link_by_hash(tx, hash_of_token(token))
        if row is None or row.deadline <= now:
            raise _gone()
        if row.made_with is not None and not await is_current(tx, row.made_with, row.org_id, now):
            raise _gone()
        role = dict(await memberships_of(tx, row.made_by)).get(row.org_id)
        if role is None:
            raise _gone()
        return row, Caller(row.org_id, row.made_by, role, token_id=row.made_with)

    return await app.database.read(work)


async def _item_of(app: App, row: InboxLinkRow, caller: Caller) -> InboxItem:
    """The item of a link, which its maker may still decide on. Raises Gone."""
    try:
        item = await read_item(app, caller, row.item_id)
        _check_open(item)
    except (NotFound, Conflict):
        raise _gone() from None
    if not item.you_may_decide:
        raise _gone()
    return item


def _check_open(item: InboxItem) -> None:
    """Raise Gone if the item has left the inbox, Conflict if a link cannot decide on it."""
    if item.outcome is not None:
        raise _gone() if item.outcome.decided is None else _decided(item)
    if item.kind not in ("approval", "question"):
        raise Conflict(
            f"a link can decide on approvals and questions only, not on items of the kind {item.kind!r}",
            code="not_an_approval",
        )


def _gone() -> Gone:
    return Gone(
        "this link does not work: its item was decided or withdrawn, its time is over, or it never existed",
        code="link_gone",
    )


def _decided(item: InboxItem) -> Gone:
    """An error that says what was decided: whoever has the link was trusted to decide it."""
    outcome = item.outcome
    if outcome is None or outcome.decided is None:
        raise AssertionError("the item is decided")
    how = "allowed" if outcome.decided.decision.startswith("allow") else "rejected"
    return Gone(
        f"the call {item.tool_name} was {how} at {outcome.at}: nothing is left to decide", code="link_gone"
    )
