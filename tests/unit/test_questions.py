"""Which questions an agent may ask, and which answers fit them."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.domain.errors import InvalidInput, ToolError
from perdure.domain.questions import fallback, given_answers, questions_of, summary_of

Json = dict[str, Any]
COLOUR: Json = {
    "id": "colour",
    "type": "choice",
    "question": "Which colour?\x1b[2J",
    "options": [{"label": " red "}, {"label": "blue", "recommended": True}],
}
WHY: Json = {"id": "why", "type": "text", "question": "Why?"}
TOKEN: Json = {"id": "token", "type": "secret", "question": "Your token?"}


@pytest.mark.parametrize(
    ("questions", "says"),
    [
        ([TOKEN, {**TOKEN, "id": "other"}], "one secret only"),
        ([WHY, WHY], "the same id"),
        ([{**COLOUR, "options": [{"label": "red"}, {"label": "blue"}]}], "exactly one option"),
        ([{**COLOUR, "options": [{"label": "a", "recommended": True}, {"label": "a"}]}], "of its own"),
        ([{**COLOUR, "options": [{"label": "\u200b", "recommended": True}, {"label": "a"}]}], "of its own"),
        ([{**COLOUR, "options": []}], "2 to 6 options"),
        ([{**WHY, "options": COLOUR["options"]}], "only a choice has options"),
        ([{**WHY, "secret_name": "A"}], "only a secret has"),
        ([{**WHY, "id": "a b"}], "does not match"),
        ([{**TOKEN, "secret_name": "A\n"}], "does not match"),
        ([{**WHY, "question": " \u200b"}], "is empty"),
    ],
)
def test_questions_that_break_a_rule_are_refused(questions: list[Json], says: str) -> None:
    with pytest.raises(ToolError, match=says):
        questions_of({"questions": questions})


def test_questions_are_cleaned_and_have_defaults() -> None:
    asked = questions_of({"questions": [COLOUR, WHY, TOKEN]})
    assert asked[0].question == "Which colour?[2J"
    assert asked[0].labels == ("red", "blue")
    assert asked[2].secret_name == "token"
    assert summary_of(asked) == "Which colour?[2J (and 2 more questions)"
    told = fallback(asked)
    assert [each["status"] for each in told["answers"]] == ["default", "declined", "declined"]


def test_every_question_is_answered_or_declined_and_a_secret_is_in_no_result() -> None:
    asked = questions_of({"questions": [COLOUR, WHY, TOKEN]})
    given = given_answers(asked, {"colour": "red", "why": None, "token": "abcd"}, "answers")
    assert given.secrets == {"token": "abcd"}
    assert "abcd" not in str(given.result)
    with pytest.raises(InvalidInput) as refused:
        given_answers(asked, {"colour": "abcd", "why": None, "token": None}, "answers")
    assert (refused.value.field, "abcd" in refused.value.message) == ("answers.colour", False)
