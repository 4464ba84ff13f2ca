"""`perdure inbox ...`: what sessions wait for that a person decides, in all sessions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter, pairs_of
from perdure.cli.failures import INTERRUPTED
from perdure.cli.terminal import Screen
from perdure.domain.inbox import InboxKind

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.decisions import Decision
    from perdure.domain.inbox import InboxItem
    from perdure.domain.messages import JsonObject
    from perdure.domain.questions import Answers

app = typer.Typer(
    help="List and decide what sessions wait for: approvals, questions, sign-ins, budgets.",
    no_args_is_help=True,
)

Item = Annotated[str, typer.Argument(help="The item's id, from the list.", show_default=False)]
Mine = Annotated[bool, typer.Option("--mine", help="Only what you may decide.")]
Kind = Annotated[
    InboxKind | None, typer.Option("--kind", help="Only items of this kind.", show_default=False)
]
Reason = Annotated[str | None, typer.Option("--reason", help="Why: the model reads it.", show_default=False)]


@app.command("list")
def list_items(
    kind: Kind = None,
    mine: Mine = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List what waits, in all sessions that you may see."""
    enter(_list(connect(url, token, org), kind, mine, as_json))


async def _list(client: Client, kind: InboxKind | None, mine: bool, as_json: bool) -> None:
    from perdure.client.routes import every

    async with client:
        pages = every(
            lambda offset: client.list_inbox(kind=kind, mine=mine or None, offset=offset, limit=100),
            lambda item: item.id,
        )
        found = [item async for item in pages]
    Screen().listing(found, ("ITEM", "KIND", "UNTIL", "SESSION", "WHAT"), _row, as_json=as_json)


def _row(item: InboxItem) -> tuple[str, ...]:
    from perdure.domain.visible import exact

    title = exact(item.session_title or item.session_id)
    return item.id, item.kind, item.expires_at, title, exact(item.summary)


@app.command()
def show(
    item_id: Item, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """Show an item with all that would run: a diff for a change of a file, a program in its lines."""
    enter(_show(connect(url, token, org), item_id, as_json))


async def _show(client: Client, item_id: str, as_json: bool) -> None:
    screen = Screen()
    async with client:
        item = await client.get_inbox_item(item_id)
        if as_json:
            screen.json(item)
        else:
            await _print(client, item, screen)


async def _print(client: Client, item: InboxItem, screen: Screen) -> None:
    from perdure.cli.asked import asked_lines
    from perdure.cli.call_texts import call_lines, printed
    from perdure.cli.question_answers import question_lines
    from perdure.domain.visible import exact

    screen.line((exact(item.summary), "bold"))
    agent = f" of the agent {exact(item.agent)}" if item.agent else ""
    asker = f", asked by {exact(item.asked_by.agent_name)}" if item.asked_by else ""
    title = f" ({exact(item.session_title)})" if item.session_title else ""
    screen.line(f"session {item.session_id}{title}{agent}{asker}, until {item.expires_at}")
    if item.kind == "approval":
        lines = await call_lines(client, item.session_id, item.tool_name, item.arguments)
        for row in printed(lines, screen.width, whole=True):
            screen.line(*row)
    for line in question_lines(item.questions):
        screen.line(line)
    for request in item.input_requests:
        for line in asked_lines(request):
            screen.line(line)
    if item.outcome is not None:
        decided = item.outcome.decided
        answered = item.outcome.answered
        by = "" if decided is None else f": {decided.decision}, by {decided.by} via {decided.via}"
        by += "" if answered is None else f": answered by {answered.by} via {answered.via}"
        screen.line((f"{item.outcome.status} at {item.outcome.at}{by}", "yellow"))
    elif not item.you_may_decide:
        screen.line((f"only {item.may_decide} may decide", "yellow"))


@app.command()
def approve(
    item_id: Item,
    always: Annotated[
        bool, typer.Option("--always", help="Also all later calls of this tool in the session.")
    ] = False,
    arguments: Annotated[
        Path | None,
        typer.Option(
            "--arguments",
            help="A file with the arguments to call the tool with, as JSON; - for standard input.",
            show_default=False,
        ),
    ] = None,
    edit: Annotated[
        bool, typer.Option("--edit", help="Open the arguments in your editor (VISUAL or EDITOR) first.")
    ] = False,
    reason: Reason = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Let a call run, as it is or with other arguments."""
    if edit and arguments is not None:
        raise typer.BadParameter("give --edit or --arguments, not both", param_hint="--edit")
    enter(_approve(connect(url, token, org), item_id, always, arguments, edit, reason))


async def _approve(
    client: Client, item_id: str, always: bool, arguments: Path | None, edit: bool, reason: str | None
) -> None:
    given = None
    async with client:
        if edit:
            given = await _edited(client, item_id)
        elif arguments is not None:
            given = _read(arguments)
        await _decide(client, item_id, "allow_always" if always else "allow", given, reason)


async def _edited(client: Client, item_id: str) -> JsonObject | None:
    """Let the person edit the arguments; None if they stay as they are."""
    from perdure.cli.argument_editor import arguments_of, edit, is_same, text_of

    item = await client.get_inbox_item(item_id)
    if item.kind != "approval" or item.outcome is not None:
        raise CommandFailed(f"{item_id} is no approval that waits: `perdure inbox show` tells more")
    edited = arguments_of(edit(text_of(item.arguments)))
    return None if is_same(edited, item.arguments) else edited


def _read(path: Path) -> JsonObject:
    from perdure.cli.argument_editor import arguments_of

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"the arguments cannot be read from {path}: {error}") from None
    return arguments_of(text)


@app.command()
def reject(
    item_id: Item,
    always: Annotated[
        bool, typer.Option("--always", help="Also all later calls of this tool in the session.")
    ] = False,
    reason: Reason = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Reject a call. The model learns of it, and of the reason."""
    enter(_reject(connect(url, token, org), item_id, always, reason))


async def _reject(client: Client, item_id: str, always: bool, reason: str | None) -> None:
    async with client:
        await _decide(client, item_id, "reject_always" if always else "reject", None, reason)


async def _decide(
    client: Client, item_id: str, decision: Decision, arguments: JsonObject | None, reason: str | None
) -> None:
    item = await client.decide_inbox_item(item_id, decision, arguments=arguments, reason=reason)
    edited = " with your arguments" if arguments is not None else ""
    Screen().line(f"decided: {decision} {item.tool_name}{edited}")


@app.command()
def answer(
    item_id: Item,
    answers: Annotated[
        list[str] | None,
        typer.Option(
            "--answer",
            "-a",
            metavar="ID=ANSWER",
            help="An answer: the question's id, and an option's label or a text; repeatable.",
            show_default="asks at the terminal",
        ),
    ] = None,
    decline: Annotated[
        bool, typer.Option("--decline", help="Decline the questions that have no --answer.")
    ] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Answer the questions of an agent. Secrets are read without showing them.

    Example: perdure inbox answer ITEM --answer colour=blue
    """
    given = pairs_of(answers, "--answer", "ANSWER")
    item = enter(_question(connect(url, token, org), item_id))
    # Between two event loops: Ctrl-C ends a read at once.
    complete = _completed(item, given, decline)
    enter(_answer(connect(url, token, org), item_id, complete))


async def _question(client: Client, item_id: str) -> InboxItem:
    async with client:
        item = await client.get_inbox_item(item_id)
    if item.kind != "question":
        raise CommandFailed(f"{item_id} asks no questions: `perdure inbox show` tells more")
    return item


def _completed(item: InboxItem, given: dict[str, str], decline: bool) -> Answers:
    """The answers, with those for which the person is asked."""
    from perdure.cli.question_answers import ask_person, read_answers

    screen = Screen()
    rest = [each for each in item.questions if each.id not in given and item.outcome is None]
    try:
        if decline:
            more: Answers = dict.fromkeys(each.id for each in rest)
        elif sys.stdin.isatty() and screen.is_terminal:
            more = ask_person(rest, screen)
        else:
            more = read_answers(rest, Screen(stderr=True))
    except (EOFError, KeyboardInterrupt):
        raise typer.Exit(INTERRUPTED) from None
    return {**given, **more}


async def _answer(client: Client, item_id: str, answers: Answers) -> None:
    async with client:
        await client.answer_inbox_item(item_id, answers)
    Screen().line(f"answered {item_id}")


@app.command()
def link(
    item_id: Item,
    expires_in: Annotated[
        int | None,
        typer.Option(
            "--expires-in", help="Seconds for which it works.", min=1, show_default="until the deadline"
        ),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Print a link by which one person can decide an item, once, without a login."""
    enter(_link(connect(url, token, org), item_id, expires_in, as_json))


async def _link(client: Client, item_id: str, expires_in: int | None, as_json: bool) -> None:
    async with client:
        made = await client.create_inbox_link(item_id, expires_in_seconds=expires_in)
    if as_json:
        Screen().json(made)
        return
    Screen().line(made.url)
    Screen(stderr=True).line(f"note: whoever has this link can decide, once, until {made.expires_at}")


@app.command()
def watch(
    kind: Kind = None,
    mine: Mine = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Print what waits, then what comes and what leaves, until Ctrl-C."""
    enter(_watch(connect(url, token, org), kind, mine, as_json))


async def _watch(client: Client, kind: InboxKind | None, mine: bool, as_json: bool) -> None:
    screen = Screen()
    async with client:
        async for change in client.follow_inbox(kind=kind, mine=mine or None):
            if as_json:
                screen.json(change)
            elif change.added is not None:
                screen.line(("+ ", "green"), "  ".join(_row(change.added)))
            else:
                screen.line((f"- {change.removed}", "dim"))
