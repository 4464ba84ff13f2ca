"""The page at which people answer an agent's questions, and what its form sends."""

from __future__ import annotations

from msgspec import to_builtins

from perdure.api.routes.question_pages import question_page, with_answers
from perdure.domain.inbox_links import LinkedItem
from perdure.domain.questions import AskedOption, AskedQuestion

RED = AskedOption("red", "like <fire>")
BLUE = AskedOption("blue", recommended=True)
COLOUR = AskedQuestion("colour", "choice", "Which <b>colour</b>?", (RED, BLUE))
WHY = AskedQuestion("why", "text", "Why?")
TOKEN = AskedQuestion("token", "secret", "Your token?", secret_name="SHOP_TOKEN")
UNTIL = "2026-03-14T10:26:53.589793Z"


def page_of(*questions: AskedQuestion, agent: str | None = None, title: str | None = None) -> str:
    item = LinkedItem(
        "ask_user",
        "q1",
        "Which colour?",
        {"questions": to_builtins(questions)},
        "ab" * 32,
        UNTIL,
        session_title=title,
        agent=agent,
        kind="question",
    )
    reply = question_page(item)
    assert (reply.status, reply.content_type) == (200, b"text/html; charset=utf-8")
    assert (b"referrer-policy", b"no-referrer") in reply.headers
    return bytes(reply.body).decode()


def test_a_choice_has_a_button_for_each_option_and_none_is_chosen_before() -> None:
    page = page_of(COLOUR)
    assert "<legend>Which &lt;b&gt;colour&lt;/b&gt;?</legend>" in page
    assert '<input type=radio name="answer.colour" value="red"> red: like &lt;fire&gt;</label>' in page
    assert 'value="blue"> blue <b>(recommended)</b></label>' in page
    assert "checked" not in page


def test_a_text_and_a_secret_have_fields_and_the_secret_is_not_shown() -> None:
    page = page_of(WHY, TOKEN)
    assert '<textarea name="answer.why" rows=3 maxlength=10000></textarea>' in page
    assert '<input type=password name="answer.token" maxlength=' in page
    assert "stores it as <b>SHOP_TOKEN</b>" in page
    assert page.count("<fieldset>") == page.count('type=hidden name="asked.') == 2


def test_the_page_says_who_asks_in_which_session_and_until_when() -> None:
    page = page_of(WHY, agent="<Ada>", title="Shop\u202e & co")
    assert "<h1>The agent <bdi>&lt;Ada&gt;</bdi> asks you:</h1>" in page
    assert "<p>Session: <bdi>Shop\\u202e &amp; co</bdi></p>" in page
    assert f"until {UNTIL}." in page
    assert f'name=shown value="{"ab" * 32}"' in page
    nobody = page_of(WHY)
    assert "<h1>An agent asks you:</h1>" in nobody
    assert "Session:" not in nobody


def test_what_a_form_leaves_empty_or_out_is_declined() -> None:
    sent: dict[str, object] = {
        "shown": "ab",
        "asked.colour": "1",
        "asked.why": "1",
        "asked.token": "1",
        "answer.why": "",
        "answer.token": "s3cret",
        "answer.other": "not asked",
    }
    assert with_answers(sent) == {
        "shown": "ab",
        "answers": {"colour": None, "why": None, "token": "s3cret"},
    }


def test_a_form_that_decides_stays_as_it_is() -> None:
    decided: dict[str, object] = {"shown": "ab", "decision": "allow"}
    assert with_answers(decided) is decided
