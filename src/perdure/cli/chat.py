"""`perdure chat`: converse at a terminal, or answer the lines of a pipe.

The event loop runs only during a turn. Between turns the program waits in `input`, so that line editing and
Ctrl-C work as in other programs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from perdure.cli.asked import ADVICE, answer_to, asked_lines
from perdure.cli.attached import HELP, content_of, read_attachment
from perdure.cli.common import CommandFailed
from perdure.cli.decisions import HELP as DECISIONS_HELP
from perdure.cli.decisions import Asking
from perdure.cli.failures import INTERRUPTED, MODEL_ADVICE, explain
from perdure.cli.piped_chat import answer_lines
from perdure.cli.question_answers import ask_person
from perdure.cli.render import (
    TurnPrinter,
    limit_text,
    narrations,
    question_of,
    waits_for,
)
from perdure.cli.sessions import last_messages, print_messages, print_session
from perdure.cli.terminal import Screen
from perdure.cli.texts import short
from perdure.client import ApiError, Client, WireEvent, data_of
from perdure.client.questions import questions_in
from perdure.client.trees import OPEN
from perdure.client.turns import until_turn_ends
from perdure.domain.errors import PerdureError
from perdure.domain.events import ENDED_TURN, ToolCall
from perdure.domain.ids import is_id
from perdure.domain.input_requests import AnswerInput, InputRequest
from perdure.domain.messages import Controls, FilePart, InputPart, WhenBusy
from perdure.domain.parked import CONSENT
from perdure.domain.tools import APPROVE, ApprovalDecision
from perdure.domain.variables import VariableValue
from perdure.domain.visible import exact

if TYPE_CHECKING:
    from perdure.domain.session_answers import OpenQuestions
    from perdure.domain.sessions import Session
    from perdure.domain.tasks import SessionTask


def chat(
    client: Client,
    session_id: str | None,
    agent: str | None,
    model: str | None,
    when_busy: WhenBusy | None,
    variables: dict[str, VariableValue],
    files: Sequence[FilePart] = (),
) -> int:
    """Run the conversation; return the exit status."""
    with asyncio.Runner() as runner:
        try:
            talk = runner.run(_open(client, session_id, agent, model, when_busy, variables))
            talk.files += files
            screen = Screen()
            if sys.stdin.isatty() and screen.is_terminal:
                return _converse(runner, talk, screen)
            return answer_lines(runner, talk)
        except KeyboardInterrupt:
            return INTERRUPTED
        finally:
            runner.run(client.close())


MODEL = "the model"
"""What waits in a turn that is parked until the end of a rate limit."""


class Chat:
    """The conversation's session, and the choices that are sent with each message."""

    def __init__(
        self,
        client: Client,
        session: Session,
        agent: str | None,
        model_id: str | None,
        when_busy: WhenBusy | None,
        variables: dict[str, VariableValue],
    ) -> None:
        self.client = client
        self.session = session
        self.agent = agent
        self.variables = variables
        given = None if variables == session.variables else variables
        controls = Controls(model_id=model_id, when_busy=when_busy, variables=given or None)
        self.controls = None if controls == Controls() else controls
        self.questions: list[ToolCall] = []
        """The calls that wait for approval."""
        self.seen: str | None = None
        """The id of the last event that was shown."""
        self.parked: dict[str, str] = {}
        """The names of the tools that wait for callbacks, by the ids of their calls. `MODEL` has none."""
        self.rests = False
        """Whether the turn does nothing but wait for callbacks, as far as was seen."""
        self.tasks: dict[str, str] = {}
        """The names of the tasks in the background that go on, by their ids."""
        self.in_turn = False
        """Whether a turn runs, as far as was seen."""
        self.asked: list[OpenQuestions] = []
        """The agent's questions that wait for answers, as far as was seen."""
        self.files: list[FilePart] = []
        """What goes with the next message."""

    def content(self, text: str) -> str | list[InputPart]:
        """The next message, with the files that wait for it."""
        files, self.files = self.files, []
        return content_of(text, files)

    def choices(self) -> str:
        """Say what a person can do about a turn that waits."""
        limited = MODEL in self.parked.values()
        message = "tries the model at once" if limited else "goes on without the tool"
        return f"Your next message {message}. Enter without a message waits."

    def note(self, event: WireEvent) -> None:
        """Keep in mind what the event says about calls that wait for callbacks, and about questions."""
        self.seen = event.id
        self.note_questions(event)
        match event.type:
            case "tool.parked":
                self.parked[data_of(event).tool_call_id] = data_of(event).tool_name
            case "tool.completed" | "tool.resumed":
                self.parked.pop(data_of(event).tool_call_id, None)
            case "turn.parked":
                self.parked[""], self.rests = MODEL, True
            case "turn.resumed":
                self.parked, self.rests = {}, False
            case "act.completed":
                self.rests = bool(self.parked)
            case "reason.started":
                self.rests = False
            case "turn.started":
                self.in_turn = True
            case "task.created" if data_of(event).task.mode == "background":
                self.tasks[data_of(event).task.id] = data_of(event).task.display_name
            case "task.updated" if data_of(event).task.ended:
                self.tasks.pop(data_of(event).task.id, None)
            case kind if kind in ENDED_TURN:
                self.parked, self.rests, self.in_turn = {}, False, False

    def note_questions(self, event: WireEvent) -> None:
        """Keep in mind which questions of the agent are open."""
        if (asked := questions_in(self.session.id, event)) is not None:
            self.asked.append(asked)
        elif event.type == "tool.completed":
            ended = data_of(event).tool_call_id
            self.asked = [each for each in self.asked if each.tool_call_id != ended]
        elif event.type in ENDED_TURN:
            self.asked = []

    async def renew(self) -> None:
        """Continue in a new session, with the same agent and model."""
        self.parked, self.rests, self.tasks, self.in_turn, self.asked = {}, False, {}, False, []
        self.session = await self.client.create_session(
            agent_name=self.agent, agent_id=self._agent_id(), source="chat", variables=self.variables
        )

    def _agent_id(self) -> str | None:
        return self.session.agent_id if self.agent is None else None


async def _open(
    client: Client,
    session_id: str | None,
    agent: str | None,
    model: str | None,
    when_busy: WhenBusy | None,
    variables: dict[str, VariableValue],
) -> Chat:
    models = [listed for listed in await client.list_models() if listed.enabled]
    model_id = model
    if model is not None and not is_id(model, "model"):
        matches = [listed.id for listed in models if model in (listed.model_id, listed.display_name)]
        if not matches:
            known = ", ".join(sorted({listed.model_id for listed in models})) or "none"
            raise CommandFailed(f"this server has no model named {model!r}; its models: {known}")
        model_id = matches[0]
    if session_id is not None:
        session = await client.get_session(session_id)
        return Chat(client, session, agent, model_id, when_busy, variables)
    if not models:
        raise CommandFailed(f"this server has no model yet.\n{MODEL_ADVICE}")
    session = await client.create_session(agent_name=agent, source="chat", variables=variables)
    return Chat(client, session, agent, model_id, when_busy, variables)


# --- at a terminal ----------------------------------------------------------------


def _converse(runner: asyncio.Runner, talk: Chat, screen: Screen) -> int:
    import readline  # noqa: F401 - importing it adds line editing and history to `input`

    printer = TurnPrinter(screen)
    runner.run(_greet(talk, printer))
    _decide(runner, talk, printer, screen)
    while True:
        try:
            line = screen.read_answer("> ").strip()
        except (EOFError, KeyboardInterrupt):
            screen.line()
            return 0
        if line in ("/quit", "/exit"):
            return 0
        if line or talk.rests or talk.tasks:
            try:
                if line in ("/answer", "/decline"):
                    _reply(runner, talk, line == "/answer", printer, screen)
                else:
                    runner.run(_line(talk, line, printer))
                _decide(runner, talk, printer, screen)
            except PerdureError as error:
                printer.note(f"error: {explain(error)}", "red")


def _reply(runner: asyncio.Runner, talk: Chat, accepts: bool, printer: TurnPrinter, screen: Screen) -> None:
    """Answer what tools' servers ask, or refuse it, then continue the turn. Ctrl-C leaves the rest."""
    asked = runner.run(talk.client.list_input_requests(talk.session.id))
    if not asked:
        printer.note("Nothing asks you for anything.")
        return
    answered = 0
    try:
        for each in asked:
            answered += _answered(runner, talk, each, accepts, printer, screen)
    except (EOFError, KeyboardInterrupt):
        screen.line()
        if not answered:
            return
    if answered:
        runner.run(_watch(talk, until_turn_ends(_follow(talk, talk.seen)), printer))
    else:
        runner.run(_show_asked(talk, printer))


def _answered(
    runner: asyncio.Runner,
    talk: Chat,
    request: InputRequest,
    accepts: bool,
    printer: TurnPrinter,
    screen: Screen,
) -> bool:
    """Answer one request, or refuse it; ask again for content that does not fit. False if it is a sign-in."""
    while True:
        answer = answer_to(request, screen) if accepts else AnswerInput("decline")
        if answer is None:
            return False
        try:
            runner.run(talk.client.answer_input_request(talk.session.id, request.id, answer))
        except ApiError as error:
            if error.status != 400 or answer.action != "accept":
                raise
            printer.note(f"error: {explain(error)}. Please answer again; Ctrl-C leaves it.", "red")
        else:
            return True


async def _show_asked(talk: Chat, printer: TurnPrinter) -> None:
    """Show what people are asked for, if anything."""
    asked = await talk.client.list_input_requests(talk.session.id)
    for request in asked:
        for line in asked_lines(request):
            printer.note(line, "yellow")
    if asked:
        printer.note(ADVICE, "yellow")


async def _line(talk: Chat, line: str, printer: TurnPrinter) -> None:
    if not line:
        printer.wait(", ".join((*talk.parked.values(), *talk.tasks.values())))
        await _watch(talk, _until_quiet(talk, _follow(talk, talk.seen)), printer)
    elif line.startswith("/"):
        await _command(talk, line, printer)
    else:
        await _turn(talk, line, printer)


async def _until_quiet(
    talk: Chat, events: AsyncGenerator[WireEvent, None]
) -> AsyncGenerator[WireEvent, None]:
    """The events up to the end of a turn, or of the last task if that starts no turn."""
    async with aclosing(until_turn_ends(events)) as followed:
        async for event in followed:
            yield event
            if event.type == "task.updated" and not (talk.tasks or talk.in_turn):
                task: SessionTask = data_of(event).task
                if task.ended and task.wake_policy == "silent":
                    return


async def _greet(talk: Chat, printer: TurnPrinter) -> None:
    session = talk.session
    client_tools = [tool.name for tool in session.tools if type(tool).__name__ == "ClientSideTool"]
    since = await talk.client.last_event_id(session.id)
    print_messages(await last_messages(talk.client, session.id, 6))
    printer.note(f"{session.id}{f' · {short(session.title)}' if session.title else ''} · /help")
    if client_tools:
        printer.note(
            f"This session has client-side tools ({', '.join(client_tools)}). This program cannot run them: "
            "if the agent calls one, your next message continues without its result.",
            "yellow",
        )
    open_tasks = await talk.client.list_tasks(session.id, state=OPEN)
    talk.tasks = {task.id: task.display_name for task in open_tasks if task.mode == "background"}
    talk.seen = since
    _tell_tasks(talk, printer)
    # The status is read after the log's end, so that the end of a turn that runs now cannot be missed.
    session = talk.session = await talk.client.get_session(session.id)
    if any(call.kind == "question" for call in session.parked_on):
        open_now = await talk.client.pending(session.id)
        talk.asked = [] if open_now is None else list(open_now.questions)
        talk.in_turn = True
        return  # they are asked at once
    waits = any(call.kind in CONSENT for call in session.parked_on)
    if (session.status in ("active", "paused") or waits) and session.parked_on:
        talk.seen, talk.rests = since, True
        talk.parked = {call.tool_call_id: call.tool_name or MODEL for call in session.parked_on}
        for call in session.parked_on:
            named = f"{call.tool_name} waits for {waits_for(call.kind)}"
            what = named if call.tool_name else limit_text(call.kind)
            what += f" ({call.budget_id})" if call.budget_id else ""
            printer.note(f"‖ {what} until {call.until}", "yellow")
        if waits:
            await _show_asked(talk, printer)
        else:
            printer.note(talk.choices(), "yellow")
    elif session.status == "active":
        printer.note("A turn is running.")
        await _watch(talk, until_turn_ends(_follow(talk, since)), printer)
    elif session.status == "waiting_for_tool_results":
        (request,) = await talk.client.list_events(
            session.id, types=("tool.call_requested",), newest_first=True, limit=1
        )
        await _watch(talk, _only(request), printer)
        talk.seen = since


def _tell_tasks(talk: Chat, printer: TurnPrinter) -> None:
    """Say what goes on in the background."""
    if talk.tasks:
        names = ", ".join(map(exact, talk.tasks.values()))
        printer.note(f"{names} go{'es' if len(talk.tasks) == 1 else ''} on. Enter without a message waits.")


async def _only(event: WireEvent) -> AsyncGenerator[WireEvent, None]:
    yield event


def _decide(runner: asyncio.Runner, talk: Chat, printer: TurnPrinter, screen: Screen) -> None:
    """Ask about each call that requires approval, and the agent's questions, then continue the turn.

    Ctrl-C cancels the turn.
    """
    asking = Asking(runner, talk.client, talk.session.id, screen)
    while talk.questions or talk.asked:
        if talk.asked:
            if not _answer_agent(runner, talk, printer, screen):
                return
            continue
        try:
            decisions = [asking.ask(question_of(question)) for question in talk.questions]
        except (EOFError, KeyboardInterrupt):
            talk.questions = []
            printer.note(runner.run(_cancel(talk)), "yellow")
            return
        questions, talk.questions = talk.questions, []
        try:
            runner.run(_decided(talk, decisions))
        except PerdureError as error:
            printer.note(f"error: {explain(error)}", "red")
            if getattr(error, "status", None) in (400, 403, 422):  # nothing was decided: ask again
                talk.questions = questions
            continue
        asking = Asking(runner, talk.client, talk.session.id, screen)  # a later call may have the same id
        runner.run(_watch(talk, until_turn_ends(_follow(talk, talk.seen)), printer))


def _answer_agent(runner: asyncio.Runner, talk: Chat, printer: TurnPrinter, screen: Screen) -> bool:
    """Ask the agent's questions, then continue the turn; whether the person did not cancel it."""
    asked = talk.asked[0]
    try:
        answers = ask_person(asked.questions, screen)
    except (EOFError, KeyboardInterrupt):
        talk.asked = []
        screen.line()
        printer.note(runner.run(_cancel(talk)), "yellow")
        return False
    try:
        runner.run(talk.client.answer_questions(asked.session_id, asked.tool_call_id, answers))
    except PerdureError as error:
        printer.note(f"error: {explain(error)}", "red")
        if error.code == "invalid_answer":
            return True  # the questions stay open
    talk.asked = talk.asked[1:]
    if not talk.asked:
        runner.run(_watch(talk, until_turn_ends(_follow(talk, talk.seen)), printer))
    return True


async def _decided(talk: Chat, decisions: list[ApprovalDecision]) -> None:
    await talk.client.submit_tool_approvals(talk.session.id, decisions)


def _follow(talk: Chat, since: str | None) -> AsyncGenerator[WireEvent, None]:
    return talk.client.follow(talk.session.id, since, exclude=("llm.generation",))


async def _turn(talk: Chat, text: str, printer: TurnPrinter) -> None:
    printer.wait()
    await _watch(talk, talk.client.run(talk.session.id, talk.content(text), controls=talk.controls), printer)


async def _watch(talk: Chat, events: AsyncGenerator[WireEvent, None], printer: TurnPrinter) -> None:
    """Print a turn's events until it ends, or waits for approvals or client-side tools.

    Ctrl-C cancels the turn. If it only waits for callbacks, which can take days, Ctrl-C leaves it waiting.
    Between turns, Ctrl-C leaves tasks at work.
    """
    try:
        async with aclosing(events):
            async for event in events:
                printer.show(event)
                talk.note(event)
                if event.type in ENDED_TURN:
                    _tell_tasks(talk, printer)
                if event.type == "act.completed" and talk.asked:
                    return
                if event.type in ("act.completed", "turn.parked") and talk.rests:
                    await _show_asked(talk, printer)
                    printer.note("Ctrl-C returns to the prompt and leaves it waiting.")
                    printer.wait(", ".join(talk.parked.values()))
                if event.type == "tool.call_requested":
                    talk.questions = [call for call in data_of(event).tool_calls if call.name == APPROVE]
                    for why in narrations(event):
                        printer.note(f"! {exact(why)}", "yellow")
                    if not talk.questions:
                        printer.note(
                            "This program cannot run it. Your next message continues without the result.",
                            "yellow",
                        )
                    return
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
        if talk.rests:
            printer.note(talk.choices(), "yellow")
        elif talk.tasks and not talk.in_turn:
            _tell_tasks(talk, printer)
        else:
            printer.note((await _cancel(talk)), "yellow")
    finally:
        printer.close()


async def _cancel(talk: Chat) -> str:
    return (await talk.client.cancel(talk.session.id)).message


async def _command(talk: Chat, line: str, printer: TurnPrinter) -> None:
    command, *rest = line.split()
    match command:
        case "/help":
            printer.note(f"{HELP}\n{DECISIONS_HELP}")
        case "/new":
            await talk.renew()
            printer.note(f"{talk.session.id} · new")
        case "/title":
            talk.session = await talk.client.update_session(talk.session.id, title=" ".join(rest) or None)
            printer.note(f"title: {talk.session.title or 'none'}")
        case "/tags":
            talk.session = await talk.client.update_session(talk.session.id, tags=tuple(rest))
            printer.note(f"tags: {', '.join(talk.session.tags) or 'none'}")
        case "/attach":
            talk.files.append(read_attachment(line.partition(" ")[2].strip()))
            printer.note(f"goes with your next message: {exact(talk.files[-1].filename or '')}")
        case "/show":
            print_session(await talk.client.get_session(talk.session.id))
        case _:
            printer.note(f"unknown command {command}; /help lists all commands")
