"""`perdure tasks ...`: what sessions have begun: sub-agents, and tools in the background."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from perdure.cli.common import DEFAULT_URL, Json, Org, Token, Url, connect, enter
from perdure.cli.failures import FAILED
from perdure.cli.sessions import SessionId
from perdure.cli.terminal import Screen
from perdure.domain.tasks import TaskKind, TaskState

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.tasks import SessionTask, TaskMessage

app = typer.Typer(
    help="List, follow and cancel tasks: what sub-agents and tools in the background do.",
    no_args_is_help=True,
)

TaskId = Annotated[str, typer.Argument(help="The task's id.", show_default=False)]


@app.command("list")
def list_tasks(
    session_id: Annotated[
        str | None,
        typer.Argument(help="The id of the session that began them.", show_default="all sessions"),
    ] = None,
    tree: Annotated[
        str | None,
        typer.Option(help="Only tasks of this session and of all below it.", show_default=False),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(help="queued, running, failed ...; several with commas.", show_default=False),
    ] = None,
    kind: Annotated[TaskKind | None, typer.Option(help="Only this kind.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(help="How many to list, newest first.", min=1, max=1000)] = 20,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List tasks, newest first: of a session, of a tree of sessions, or all.

    A task is listed until 30 days after its end.
    """
    if session_id is not None and tree is not None:
        raise typer.BadParameter("pass either a session's id or --tree", param_hint="--tree")
    states = _states(state)
    enter(_list(connect(url, token, org), session_id, tree, states, kind, limit, as_json))


def _states(text: str | None) -> list[TaskState]:
    """Parse states separated by commas. Exits with a usage error for others."""
    known = {str(state): state for state in get_args(TaskState)}
    given = [each.strip() for each in (text or "").split(",") if each.strip()]
    if unknown := [each for each in given if each not in known]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(known)}", param_hint="--state")
    return [known[each] for each in given]


async def _list(
    client: Client,
    session_id: str | None,
    tree: str | None,
    states: Iterable[TaskState],
    kind: TaskKind | None,
    limit: int,
    as_json: bool,
) -> None:
    async with client:
        if session_id is None:
            tasks = await client.list_org_tasks(state=states, kind=kind, root_session_id=tree, limit=limit)
        else:
            tasks = await client.list_tasks(session_id, state=states, kind=kind, limit=limit)
    Screen().listing(tasks, ("TASK", "SESSION", "STATE", "TOOK", "NAME", "ANSWER"), _row, as_json=as_json)


def _row(task: SessionTask) -> tuple[str | tuple[str, str], ...]:
    from perdure.cli.task_lines import STYLES, took_of, what_came_of

    state = (task.state, STYLES.get(task.state, ""))
    return task.id, task.session_id, state, took_of(task), task.display_name, what_came_of(task, 60)


@app.command()
def show(
    session_id: SessionId,
    task_id: TaskId,
    messages: Annotated[
        int, typer.Option("--messages", "-m", help="How many messages to show.", min=1, max=1000)
    ] = 20,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Show a task with the messages to and from it."""
    enter(_show(connect(url, token, org), session_id, task_id, messages, as_json))


async def _show(client: Client, session_id: str, task_id: str, messages: int, as_json: bool) -> None:
    async with client:
        detail = await client.get_task(session_id, task_id, limit=messages)
    if as_json:
        Screen().json(detail)
    else:
        _print_task(detail.task)
        _print_messages(detail.messages)


def _print_task(task: SessionTask) -> None:
    from perdure.cli.task_lines import STYLES, took_of
    from perdure.domain.visible import visible_line

    screen, progress = Screen(), task.progress
    rows = {
        "task": task.id,
        "name": task.display_name,
        "kind": task.kind,
        "state": task.state,
        "detail": task.state_detail,
        "session": task.session_id,
        "works in": task.links.child_session_id,
        "took": took_of(task),
        "progress": progress
        and " ".join(
            f"{part}"
            for part in (
                progress.current,
                progress.total and f"of {progress.total}",
                progress.unit,
                progress.label,
            )
            if part
        ),
        "waits for": task.input_request and task.input_request.prompt,
        "error": task.error and f"{task.error.message} ({task.error.kind})",
        "artifacts": ", ".join(
            f"{each.name} ({each.path or each.url or each.type})" for each in task.artifacts
        ),
        "created": task.created_at,
        "deadline": None if task.ended else task.deadline,
        "ended": task.finished_at,
    }
    for name, value in rows.items():
        if value:
            style = STYLES.get(task.state, "") if name == "state" else ""
            screen.line((f"{name:<11}", "dim"), (visible_line(value), style))
    if task.summary:
        screen.line()
        screen.line(task.summary)


def _print_messages(messages: Iterable[TaskMessage]) -> None:
    from perdure.cli.texts import short
    from perdure.domain.tasks import text_of_message

    for message in messages:
        arrow = "→" if message.direction == "inbound" else "←"
        Screen().line((f"{message.created_at[11:19]} {arrow} ", "dim"), short(text_of_message(message), 500))


@app.command()
def cancel(
    session_id: SessionId,
    task_id: TaskId,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Cancel a task, and all tasks below it. Does nothing if it has ended."""
    enter(_cancel(connect(url, token, org), session_id, task_id, as_json))


async def _cancel(client: Client, session_id: str, task_id: str, as_json: bool) -> None:
    async with client:
        task = await client.cancel_task(session_id, task_id)
    if as_json:
        Screen().json(task)
    else:
        stopping = "" if task.ended else ", asked to stop"
        Screen().line(f"{task.id} {task.state}{stopping}")


@app.command()
def watch(
    session_id: SessionId,
    task_id: Annotated[
        str | None, typer.Argument(help="The task's id.", show_default="all tasks of the session")
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Follow a session's tasks, or one of them, until all have ended.

    The exit status is 1 if one of them has failed or was canceled.
    """
    raise typer.Exit(enter(_watch(connect(url, token, org), session_id, task_id, as_json)))


async def _watch(client: Client, session_id: str, task_id: str | None, as_json: bool) -> int:
    """Print what changes of the tasks; return the exit status."""
    from perdure.client import data_of
    from perdure.client.trees import OPEN

    async with client:
        since = await client.last_event_id(session_id)
        followed = client.follow(session_id, since, types=("task.created", "task.updated"))
        if task_id is None:
            tasks = await client.list_tasks(session_id, state=OPEN)
        else:
            tasks = ((await client.get_task(session_id, task_id, limit=1)).task,)
        seen = {task.id: task for task in tasks}
        for task in reversed(tasks):
            _tell(task, as_json)
        async with aclosing(followed) as events:
            while not all(task.ended for task in seen.values()):
                task = data_of(await anext(events)).task
                if task_id in (None, task.id) and _is_news(seen.get(task.id), task):
                    _tell(task, as_json)
                    seen[task.id] = task
    return 0 if all(task.state == "succeeded" for task in seen.values()) else FAILED


def _is_news(before: SessionTask | None, after: SessionTask) -> bool:
    """Whether a task that was read may be told of by an event that is older; the newer one counts."""
    return before is None or (after.updated_at > before.updated_at and not before.ended)


def _tell(task: SessionTask, as_json: bool) -> None:
    from perdure.cli.task_lines import MARKS, STYLES, task_text

    screen = Screen()
    if as_json:
        screen.json(task)
    else:
        line = (f"{MARKS[task.state]} {task_text(task)}", STYLES[task.state])
        screen.line((f"{task.updated_at[11:19]} ", "dim"), line)
