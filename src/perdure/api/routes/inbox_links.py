"""Links that decide one item of the inbox without a login. The token in the URL is the only credential.

Programs that look at links in mails send GET or HEAD, so only POST decides. A decision needs the digest of
what was shown: nobody can decide without having read the item.
"""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl

import msgspec

from perdure.api.kernel.asgi import NOT_STORED
from perdure.api.kernel.call import Answer, Call, Reply
from perdure.api.kernel.decoding import check_text, decode
from perdure.api.kernel.pages import SENDS_NO_REFERRER, page, wants_page
from perdure.api.kernel.problems import problem_of
from perdure.api.kernel.route import route
from perdure.api.routes.deciders import address_of, user_agent_of
from perdure.api.routes.question_pages import question_page, with_answers
from perdure.app import inbox_links as use
from perdure.domain.call_views import view_call
from perdure.domain.errors import InvalidInput, PerdureError
from perdure.domain.inbox_links import (
    MAX_LINK_BODY,
    SHOWN_EXAMPLE,
    CreateLink,
    DecideByLink,
    InboxLink,
    LinkDecision,
    LinkedItem,
)
from perdure.domain.markup import escape
from perdure.domain.visible import exact

_DECISION: msgspec.json.Decoder[DecideByLink] = msgspec.json.Decoder(DecideByLink)
_FORM = "application/x-www-form-urlencoded"
_MAX_FIELDS = 10

# Each line is a block with its own sign and indentation, so that no text can look like another line. The
# override shows the characters in the order in which they are stored, whatever their script.
_STYLE = (
    "h1{font-size:1.3em;overflow-wrap:anywhere}"
    ".call{font:14px/1.5 monospace;border:1px solid #999;border-radius:4px;padding:.5em;margin:1em 0}"
    ".call div{white-space:pre-wrap;overflow-wrap:anywhere;padding-left:2em;text-indent:-2em;"
    "direction:ltr;unicode-bidi:bidi-override}"
    ".added{background:#e6ffe6}.removed{background:#ffe9e9}.note{color:#555}"
    "label,textarea{display:block;width:100%;box-sizing:border-box}"
    "button{font-size:1em;padding:.5em 1.5em;margin:1em 1em 0 0}"
)
_SIGNS = {"note": "· ", "code": "│ ", "same": "│ ", "added": "+ ", "removed": "- "}


@route(
    "POST", "/v1/inbox/{item_id}/links", "inbox", status=201, errors=(403, 404, 409, 410), replayable=False,
    body_example={"expires_in_seconds": 3600},
)  # fmt: skip
async def create_inbox_link(call: Call, item_id: str, body: CreateLink) -> InboxLink:
    """Create a link that decides an item.

    Whoever has the link can see the item and decide on it, once, without a login: for mail and chat. It
    decides on your authority, so you must be one of those who may decide. It works until the item's deadline
    at the latest, and while your access token and your membership last.
    """
    return await use.create_link(call.app, call.caller, item_id, body)


@route("GET", "/v1/links/{token}", "inbox", errors=(410, 429), public=True, admit=use.admit_link)
async def show_link(call: Call, token: str) -> Answer[LinkedItem] | Reply:
    """Show the item of a link.

    Browsers get a page with a form, programs JSON (`Accept`). It decides nothing. 410 once the item is
    decided or withdrawn, or its time is over, and for unknown tokens.
    """
    if not wants_page(call.header(b"accept")):
        return Answer(await use.read_link(call.app, token), headers=(NOT_STORED,))
    try:
        # A long call takes some 50 ms to lay out, in which other requests go on.
        return await asyncio.to_thread(_item_page, await use.read_link(call.app, token))
    except PerdureError as error:
        return _failed(error)


@route(
    "POST", "/v1/links/{token}", "inbox", errors=(400, 403, 409, 410, 413, 415, 429),
    body_example={"decision": "allow", "shown": SHOWN_EXAMPLE}, body_limit=MAX_LINK_BODY, public=True,
    admit=use.admit_link,
)  # fmt: skip
async def decide_by_link(call: Call, token: str, body: bytes) -> Answer[LinkDecision] | Reply:
    """Decide on the item of a link.

    The body is JSON, or the page's form: the decision (`allow` or `reject`), `shown` from the same URL, and
    a reason for the model. With questions, it has `answers` instead of a decision; 400 if one does not fit,
    and the questions stay open. The log records who made the link and when, and the address, the program
    and the digest of what was shown. 409 if `shown` is not what the link shows now.
    """
    try:
        given = _decision_of(call, body)
        decided = await use.decide_by_link(call.app, token, given, address_of(call), user_agent_of(call))
    except PerdureError as error:
        if not wants_page(call.header(b"accept")):
            raise
        return _failed(error)
    if not wants_page(call.header(b"accept")):
        return Answer(decided)
    done = {"allow": "Allowed", "reject": "Rejected", "answer": "Answered"}[decided.decision]
    text = f"<h1>{done}</h1><p>The agent has been told. You can close this page.</p>"
    return page(text, 200, SENDS_NO_REFERRER)


def _decision_of(call: Call, body: bytes) -> DecideByLink:
    media = (call.header(b"content-type") or "").partition(";")[0].strip().lower()
    if media != _FORM:
        return decode(_DECISION, body)
    try:
        pairs = parse_qsl(
            body.decode(), strict_parsing=bool(body), max_num_fields=_MAX_FIELDS, errors="strict"
        )
    except ValueError:
        raise InvalidInput("the body is not a form") from None
    fields: dict[str, object] = {name: check_text(value).replace("\r\n", "\n") for name, value in pairs}
    try:
        return msgspec.convert(with_answers(fields), DecideByLink)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the form is not complete: {error}") from None


def _item_page(item: LinkedItem) -> Reply:
    if item.kind == "question" and not item.truncated:
        return question_page(item)
    name = item.display_name or item.tool_name
    about = [f"<p>{escape(exact(item.summary))}</p>"]
    if item.session_title:
        about.append(f"<p>Session: <bdi>{escape(exact(item.session_title))}</bdi></p>")
    if item.truncated:
        about.append("<p><b>The call is too long to be shown here. You can only reject it.</b></p>")
    else:
        lines = view_call(item.tool_name, item.arguments)
        rows = [f"<div class={line.kind}>{_SIGNS[line.kind]}{escape(line.text)}</div>" for line in lines]
        about.append(f"<p>It would run <b>{escape(exact(item.tool_name))}</b> with exactly this:</p>")
        about.append(f"<div class=call>{''.join(rows)}</div>")
    who = f"The agent <bdi>{escape(exact(item.agent))}</bdi>" if item.agent else "An agent"
    allow = "" if item.truncated else "<button name=decision value=allow>Allow</button>"
    form = (
        '<form method="post"><label>Why (the agent reads it; you can leave it out)'
        "<textarea name=reason rows=2 maxlength=2000></textarea></label>"
        f'<input type=hidden name=shown value="{escape(item.shown)}">'
        f"{allow}<button name=decision value=reject>Reject</button></form>"
        f"<p class=note>You can decide once, until {escape(item.expires_at)}.</p>"
    )
    title = f"<h1>{who} asks: may <bdi>{escape(exact(name))}</bdi> run?</h1>"
    return page(title + "".join(about) + form, 200, SENDS_NO_REFERRER, _STYLE)


def _failed(error: PerdureError) -> Reply:
    problem = problem_of(error, "/v1/links")
    title = "This link no longer works" if error.code == "link_gone" else "Nothing was decided"
    body = f"<h1>{title}</h1><p>{escape(exact(problem.detail))}</p><p>Code: {escape(error.code)}</p>"
    return page(body, problem.status, SENDS_NO_REFERRER)


ROUTES = (create_inbox_link, show_link, decide_by_link)
