"""The page of a link at which a person answers the questions of an agent."""

from __future__ import annotations

from msgspec import convert

from perdure.api.kernel.call import Reply
from perdure.api.kernel.pages import SENDS_NO_REFERRER, page
from perdure.domain.inbox_links import LinkedItem
from perdure.domain.markup import escape
from perdure.domain.questions import MAX_TEXT, Asked, AskedQuestion
from perdure.domain.storage import MAX_SECRET
from perdure.domain.visible import exact

_STYLE = (
    "h1{font-size:1.3em;overflow-wrap:anywhere}fieldset{margin:1em 0}legend{overflow-wrap:anywhere}"
    "label{display:block;margin:.3em 0}.note{color:#555}"
    "textarea,input[type=password]{display:block;width:100%;box-sizing:border-box}"
    "button{font-size:1em;padding:.5em 1.5em;margin:1em 1em 0 0}"
)
_ASKED, _ANSWER = "asked.", "answer."
"""How the names of the form's fields begin: of those that say what is asked, and of the answers."""


def question_page(item: LinkedItem) -> Reply:
    """Show the questions of an item, in a form."""
    who = f"The agent <bdi>{escape(exact(item.agent))}</bdi>" if item.agent else "An agent"
    about = f"<p>Session: <bdi>{escape(exact(item.session_title))}</bdi></p>" if item.session_title else ""
    fields = "".join(_field(each) for each in convert(item.arguments, Asked).questions)
    form = (
        f'<form method="post" autocomplete="off"><input type=hidden name=shown value="{escape(item.shown)}">'
        f"{fields}<p class=note>What you leave out is declined.</p><button>Answer</button></form>"
        f"<p class=note>You can answer once, until {escape(item.expires_at)}.</p>"
    )
    return page(f"<h1>{who} asks you:</h1>{about}{form}", 200, SENDS_NO_REFERRER, _STYLE)


def _field(question: AskedQuestion) -> str:
    name, text = escape(question.id), escape(exact(question.question))
    asked = f'<input type=hidden name="{_ASKED}{name}" value=1>'
    match question.type:
        case "choice":
            body = "".join(
                f'<label><input type=radio name="{_ANSWER}{name}" value="{escape(option.label)}">'
                f" {escape(exact(option.label))}{_about(option.description, option.recommended)}</label>"
                for option in question.options
            )
        case "secret":
            body = (
                f'<input type=password name="{_ANSWER}{name}" maxlength={MAX_SECRET} autocomplete=off>'
                f"<p class=note>The session stores it as <b>{escape(exact(question.secret_name or ''))}</b>. "
                "The model never sees it.</p>"
            )
        case _:
            body = f'<textarea name="{_ANSWER}{name}" rows=3 maxlength={MAX_TEXT}></textarea>'
    return f"<fieldset><legend>{text}</legend>{asked}{body}</fieldset>"


def _about(description: str | None, recommended: bool) -> str:
    said = [f": {escape(exact(description))}"] if description else []
    return "".join([*said, " <b>(recommended)</b>" if recommended else ""])


def with_answers(fields: dict[str, object]) -> dict[str, object]:
    """Return a form's fields with the answers in one of them. What was left empty is declined."""
    answers = {name.removeprefix(_ASKED): None for name in fields if name.startswith(_ASKED)}
    if not answers:
        return fields
    given = {name: fields.get(f"{_ANSWER}{name}") or None for name in answers}
    rest = {name: value for name, value in fields.items() if not name.startswith((_ASKED, _ANSWER))}
    return rest | {"answers": given}
