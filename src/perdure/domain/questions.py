"""Questions of an agent to people (`ask_user`): what is asked, what is answered, what the model reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from perdure.domain.errors import InvalidInput, ToolError
from perdure.domain.messages import JsonObject
from perdure.domain.storage import MAX_SECRET, SHORTEST_REDACTED
from perdure.domain.visible import without_hidden

ASK_USER = "ask_user"
"""The tool's name."""
WAIT_SECONDS = 300
"""Seconds that a call waits for the answers, unless the capability's configuration says otherwise."""
MIN_WAIT, MAX_WAIT = 1, 7 * 24 * 3600
"""The least and the most seconds that may be configured."""
MAX_QUESTIONS = 4
MIN_OPTIONS, MAX_OPTIONS = 2, 6
MAX_QUESTION = 2_000
"""Characters of a question."""
MAX_LABEL = 200
"""Characters of an option's label."""
MAX_DESCRIPTION = 500
"""Characters of an option's description."""
MAX_TEXT = 10_000
"""Characters of an answer in text."""

ID_PATTERN = r"^[A-Za-z0-9_.-]{1,64}$"
"""Ids of questions and names of secrets."""

QuestionType = Literal["choice", "text", "secret"]
AnswerStatus = Literal["answered", "stored", "declined", "default"]

Answers = dict[str, str | None]
"""By the questions' ids: an option's label, a text or a secret's value; None declines."""

ANSWERS = Meta(
    description=(
        "An answer to each question of the call, by the question's id: the label of an option, a text, or "
        "the secret's value. `null` declines the question."
    ),
    examples=[{"colour": "blue", "why": None}],
)

_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class AskedOption(Struct, frozen=True, omit_defaults=True):
    """An option of a choice."""

    label: Annotated[str, Meta(description="The option, which is also the answer.", examples=["blue"])]
    description: Annotated[str | None, Meta(description="What the option means.")] = None
    recommended: Annotated[
        bool, Meta(description="The agent recommends it. It is the answer if nobody answers in time.")
    ] = False


class AskedQuestion(Struct, frozen=True, omit_defaults=True):
    """A question of an agent to a person."""

    id: Annotated[str, Meta(description="The question's id within its call.", examples=["colour"])]
    type: Annotated[
        QuestionType,
        Meta(
            description=(
                "`choice`: one of the options; `text`: a text; `secret`: a value that is stored as a secret "
                "of the session, and that the model never sees."
            )
        ),
    ]
    question: Annotated[str, Meta(description="What the agent asks.", examples=["Which colour?"])]
    options: Annotated[tuple[AskedOption, ...], Meta(description="With `choice`: the options.")] = ()
    secret_name: Annotated[
        str | None, Meta(description="With `secret`: the name under which the session stores it.")
    ] = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The answers that a choice takes."""
        return tuple(option.label for option in self.options)

    @property
    def recommended(self) -> str | None:
        """The label of the recommended option; None if it is no choice."""
        return next((option.label for option in self.options if option.recommended), None)


class Asked(Struct, frozen=True):
    """The questions of a call, as its arguments have them."""

    questions: tuple[AskedQuestion, ...]


class QuestionAnswers(Struct, frozen=True, forbid_unknown_fields=True):
    """The result of a call that asks questions, in `POST /v1/sessions/{session_id}/tool-results`."""

    answers: Annotated[Answers, ANSWERS]


class Answer(Struct, frozen=True, omit_defaults=True):
    """What the model reads of an answer."""

    id: str
    status: AnswerStatus
    answer: str | None = None
    secret: str | None = None


class Given(Struct, frozen=True):
    """The answers to the questions of a call.

    Attributes:
        result: what the model reads.
        secrets: what the session stores, by name. It must be in no event, log or error.
    """

    result: JsonObject
    secrets: dict[str, str]


def questions_of(arguments: JsonObject) -> tuple[AskedQuestion, ...]:
    """Return what the model asks. This checks the rules that the tool's schema cannot state.

    Raises:
        ToolError: a rule is broken; the message says which.
    """
    asked = msgspec.convert(arguments, Asked).questions
    numbered = tuple(_checked(number, question) for number, question in enumerate(asked, start=1))
    if len({question.id for question in numbered}) < len(numbered):
        raise ToolError("Two questions have the same id: give each its own.")
    if sum(question.type == "secret" for question in numbered) > 1:
        raise ToolError("A call may ask for one secret only: ask for the other one in a later call.")
    return numbered


def _checked(number: int, question: AskedQuestion) -> AskedQuestion:
    where = f"Question {number}"
    for each in (question.id, question.secret_name or question.id):
        if _ID.fullmatch(each) is None:
            raise ToolError(f"{where}: {each[:100]!r} does not match {ID_PATTERN}.")
    if not without_hidden(question.question).strip():
        raise ToolError(f"{where} is empty.")
    if question.type == "choice":
        options = tuple(
            replace(
                option,
                label=without_hidden(option.label).strip(),
                description=without_hidden(option.description or "").strip() or None,
            )
            for option in question.options
        )
        labels = {option.label for option in options}
        if not MIN_OPTIONS <= len(options) <= MAX_OPTIONS:
            raise ToolError(f"{where} is a choice: it needs {MIN_OPTIONS} to {MAX_OPTIONS} options.")
        if len(labels) < len(options) or "" in labels:
            raise ToolError(f"{where}: each option needs a label of its own.")
        if sum(option.recommended for option in options) != 1:
            raise ToolError(f"{where} is a choice: mark exactly one option as `recommended`.")
    elif question.options:
        raise ToolError(f"{where}: only a choice has options.")
    else:
        options = ()
    if question.type != "secret" and question.secret_name is not None:
        raise ToolError(f"{where}: only a secret has a `secret_name`.")
    name = (question.secret_name or question.id) if question.type == "secret" else None
    text = without_hidden(question.question).strip()
    return AskedQuestion(question.id, question.type, text, options, name)


def given_answers(
    questions: tuple[AskedQuestion, ...], answers: Mapping[str, str | None], field: str
) -> Given:
    """Check the answers of a person. No message contains what was entered: it may be a secret.

    Args:
        field: the name of the answers in the request.

    Raises:
        InvalidInput: a question is not answered, or not asked, or an answer does not fit its question.
    """
    known = {question.id for question in questions}
    for each in answers:
        if each not in known:
            asked = ", ".join(sorted(known))
            raise _wrong(field, f"it answers a question that is not asked; the questions are: {asked}")
    missing = [question.id for question in questions if question.id not in answers]
    if missing:
        raise _wrong(f"{field}.{missing[0]}", "it is missing: answer each question, or decline it with null")
    secrets: dict[str, str] = {}
    given: list[Answer] = []
    for question in questions:
        value = answers[question.id]
        where = f"{field}.{question.id}"
        if value is None:
            given.append(Answer(question.id, "declined"))
        elif question.type == "secret":
            name = question.secret_name or question.id
            secrets[name] = _checked_secret(where, value)
            given.append(Answer(question.id, "stored", secret=name))
        else:
            given.append(Answer(question.id, "answered", _checked_text(where, question, value)))
    return Given(_result(given, timed_out=False), secrets)


def with_texts(
    result: JsonObject, questions: tuple[AskedQuestion, ...], change: Callable[[str], str]
) -> JsonObject:
    """Change the texts that a person wrote, in what the model reads of the answers.

    All else in it is known without the answers: the keys, the questions' ids, the options' labels. To redact
    a secret that equals one of these words would say what the secret is, and hide nothing.
    """
    written = {question.id for question in questions if question.type == "text"}
    answers = [
        {**each, "answer": change(each["answer"])} if each["id"] in written and "answer" in each else each
        for each in result["answers"]
    ]
    return {**result, "answers": answers}


def _checked_secret(where: str, value: str) -> str:
    if not SHORTEST_REDACTED <= len(value) <= MAX_SECRET:
        raise _wrong(where, f"a secret must have {SHORTEST_REDACTED} to {MAX_SECRET} characters")
    return value


def _checked_text(where: str, question: AskedQuestion, value: str) -> str:
    if question.type == "choice":
        if value not in question.labels:
            labels = ", ".join(repr(label) for label in question.labels)
            raise _wrong(where, f"it must be one of: {labels[:1_500]}")
        return value
    if not value.strip():
        raise _wrong(where, "it is empty: write a text, or decline the question with null")
    if len(value) > MAX_TEXT:
        raise _wrong(where, f"it may have at most {MAX_TEXT} characters, but has {len(value)}")
    return value


def _wrong(field: str, why: str) -> InvalidInput:
    return InvalidInput(f"`{field}`: {why}", code="invalid_answer", field=field)


def fallback(questions: tuple[AskedQuestion, ...]) -> JsonObject:
    """Return what the model reads when nobody has answered in time."""
    given = [
        Answer(question.id, "default", question.recommended)
        if question.type == "choice"
        else Answer(question.id, "declined")
        for question in questions
    ]
    return _result(given, timed_out=True)


def _result(given: list[Answer], *, timed_out: bool) -> JsonObject:
    found: JsonObject = {"answers": [msgspec.to_builtins(each) for each in given]}
    notes = []
    if timed_out:
        found["timed_out"] = True
        notes.append(
            "Nobody answered in time: choices have the recommended option, the other questions are declined."
        )
    if any(each.status == "stored" for each in given):
        notes.append(
            "The secret is stored in the session under its name. Nobody can read its value: use the name."
        )
    return found | ({"note": " ".join(notes)} if notes else {})


def summary_of(questions: tuple[AskedQuestion, ...]) -> str:
    """Say in a sentence what is asked."""
    first = questions[0].question if questions else "The agent asks a question."
    more = len(questions) - 1
    return first if more < 1 else f"{first} (and {more} more question{'s' if more > 1 else ''})"
