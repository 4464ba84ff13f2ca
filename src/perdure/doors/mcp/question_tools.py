"""The tool by which a client of the MCP endpoint answers the questions of agents."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.app.questions import answer_call
from perdure.app.session_answers import read_answer
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import id_schema
from perdure.domain.inbox import Decider
from perdure.domain.questions import Answers
from perdure.domain.tools import SubmittedToolResults
from perdure.doors.mcp.tool import DECIDES, Tool, Visit, open_session, tool


class AnswerQuestions(Struct, frozen=True, forbid_unknown_fields=True):
    """Answer the questions of an agent, which a session's `questions` show.

    Ask the user first: the answers are a person's. Then call read_answer with `wait_seconds`. Never ask for
    a secret here: tell the user to answer it in the inbox of the server, or decline it with null.
    """

    session_id: Annotated[Annotated[str, id_schema("session")], Meta(description="The session that asks.")]
    tool_call_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=500)], Meta(description="The call that asks.")
    ]
    answers: Annotated[
        Answers,
        Meta(
            description=(
                "An answer to each question, by its id: the label of an option, or a text. null declines."
            )
        ),
    ]


async def _answer(visit: Visit, given: AnswerQuestions) -> SubmittedToolResults:
    session_id = await open_session(visit, given.session_id)
    found = await read_answer(visit.app, visit.caller, session_id)
    secrets = {
        question.id
        for each in found.questions
        if each.tool_call_id == given.tool_call_id
        for question in each.questions
        if question.type == "secret"
    }
    if any(given.answers.get(each) is not None for each in secrets):
        raise InvalidInput(
            "`answers`: a secret must not pass through a model: have the user answer it in the inbox, or "
            "decline it with null",
            code="invalid_answer",
            field="answers",
        )
    decider = Decider(visit.caller, "mcp")
    return await answer_call(visit.app, decider, session_id, given.tool_call_id, given.answers)


def answer_questions() -> Tool:
    """Build the tool."""
    return tool(
        "answer_questions", "Answer questions", DECIDES, AnswerQuestions, SubmittedToolResults, _answer
    )
