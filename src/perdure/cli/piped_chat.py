"""`perdure chat` without a terminal: answer the lines of a pipe."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

from perdure.cli.common import CommandFailed
from perdure.cli.failures import FAILED, explain
from perdure.cli.question_answers import read_answers
from perdure.cli.render import model_trouble, parked_text, question_of
from perdure.cli.terminal import Screen, complain
from perdure.client import ApiError, TurnPaused, WireEvent, data_of, turn_failure
from perdure.domain.errors import PerdureError
from perdure.domain.messages import text_of
from perdure.domain.tools import APPROVE

if TYPE_CHECKING:
    from perdure.cli.chat import Chat


def answer_lines(runner: asyncio.Runner, talk: Chat) -> int:
    """Answer each line of standard input; return the exit status."""
    status = 0
    for line in sys.stdin:
        text = line.strip()
        if text:
            try:
                Screen().line(runner.run(_answer(talk, text)))
            except PerdureError as error:
                complain(explain(error))
                status = FAILED
    return status


async def _answer(talk: Chat, text: str) -> str:
    answer = ""
    try:
        async with aclosing(
            talk.client.run(talk.session.id, talk.content(text), controls=talk.controls)
        ) as events:
            async for event in events:
                _refuse_to_wait(event)
                talk.note_questions(event)
                if event.type == "act.completed" and talk.asked:
                    await _answer_questions(talk)
                if event.type == "tool.parked":
                    Screen(stderr=True).line(parked_text(event))
                elif event.type in ("reason.fallback", "turn.parked"):
                    if event.type == "turn.parked" and data_of(event).parked_kind == "budget":
                        raise _paused(talk, event)
                    Screen(stderr=True).line(model_trouble(event))
                if (failure := turn_failure(event)) is not None:
                    raise failure
                if event.type == "output.message.completed":
                    answer = text_of(data_of(event).message.content)
    except (asyncio.CancelledError, CommandFailed):
        await talk.client.cancel(talk.session.id)
        raise
    return answer


async def _answer_questions(talk: Chat) -> None:
    """Take the answers from the next lines of the input."""
    notes = Screen(stderr=True)
    asked, talk.asked = talk.asked, []
    for each in asked:
        while True:
            answers = read_answers(each.questions, notes)
            try:
                await talk.client.answer_questions(each.session_id, each.tool_call_id, answers)
            except ApiError as error:
                notes.line(f"error: {explain(error)}")
                if error.code == "invalid_answer":
                    continue
            break


def _paused(talk: Chat, event: WireEvent) -> TurnPaused:
    """The error of a turn without money. It is not cancelled, and goes on once there is some."""
    data = data_of(event)
    return TurnPaused(talk.session.id, data.budget_id or "", data.until, data.error)


def _refuse_to_wait(event: WireEvent) -> None:
    if event.type == "tool.call_requested":
        calls = data_of(event).tool_calls
        held = ", ".join(question_of(call).tool_name for call in calls if call.name == APPROVE)
        if held:
            raise CommandFailed(
                f"a tool call requires approval, and there is no terminal to ask on: {held}. The turn was "
                "cancelled; `perdure approvals` decides calls of sessions that are started over HTTP"
            )
        names = ", ".join(call.name for call in calls)
        raise CommandFailed(f"the agent called client-side tools, which this program cannot run: {names}")
