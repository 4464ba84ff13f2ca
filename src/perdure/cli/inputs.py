"""`perdure inputs ...`: what MCP servers ask people for, listed and answered without a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter, pairs_of
from perdure.cli.sessions import SessionId
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.input_requests import InputAction, InputRequest

app = typer.Typer(
    help="List and answer what a session's tool calls ask people for: forms, and URLs to visit.",
    epilog="`perdure chat SESSION` asks for the answers; sign-ins are made with `perdure mcp sign-in`.",
    no_args_is_help=True,
)

InputIds = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[INPUT_ID]...", help="Ids from the list.", show_default="the only question that is open"
    ),
]


@app.command("list")
def list_inputs(
    session_id: SessionId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List what the session's tool calls wait for, oldest first, with the fields of each form."""
    enter(_list(connect(url, token, org), session_id, as_json))


async def _list(client: Client, session_id: str, as_json: bool) -> None:
    from perdure.cli.asked import asked_lines

    async with client:
        found = await client.list_input_requests(session_id)
    screen = Screen()
    if as_json:
        for each in found:
            screen.json(each)
        return
    if not found:
        screen.line("Nothing asks for input.")
    for each in found:
        screen.line((each.id, "bold"), f"  {each.mode}, until {each.expires_at}")
        for line in asked_lines(each):
            screen.line(f"  {line}")


@app.command()
def answer(
    session_id: SessionId,
    input_ids: InputIds = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            "-f",
            metavar="NAME=VALUE",
            help="A field of the form; repeatable. Several values of one field are separated by commas.",
            show_default=False,
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Answer a form, or say that the URL was visited.

    Example: perdure inputs answer SESSION --field size=M --field count=2
    """
    given = pairs_of(field, "--field")
    if given and len(input_ids or ()) > 1:
        raise typer.BadParameter("the fields are those of one form: give one id", param_hint="INPUT_ID")
    enter(_answer(connect(url, token, org), session_id, input_ids or [], "accept", given))


@app.command()
def decline(
    session_id: SessionId,
    input_ids: InputIds = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Refuse to answer. The model learns of it."""
    enter(_answer(connect(url, token, org), session_id, input_ids or [], "decline", {}))


async def _answer(
    client: Client, session_id: str, ids: list[str], action: InputAction, given: dict[str, str]
) -> None:
    from perdure.cli.asked import content_of
    from perdure.domain.input_requests import AnswerInput

    async with client:
        for request in _chosen(await client.list_input_requests(session_id), ids):
            content = None
            if action == "accept":
                if request.mode == "sign_in":
                    raise CommandFailed(
                        f"{request.id} is a sign-in: run `perdure mcp sign-in`, or open {request.url}"
                    )
                content = content_of(request, given) if request.mode == "form" else None
                if given and content is None:
                    raise CommandFailed(f"{request.id} asks to visit {request.url}: it has no fields")
            await client.answer_input_request(session_id, request.id, AnswerInput(action, content))
            Screen().line(f"{'answered' if action == 'accept' else 'declined'} {request.id}")


def _chosen(found: tuple[InputRequest, ...], ids: list[str]) -> list[InputRequest]:
    """The requests with these ids; without ids, the only one that there is."""
    if not ids:
        if len(found) == 1:
            return list(found)
        open_ids = ", ".join(each.id for each in found)
        raise CommandFailed(
            f"{len(found)} questions are open; give an id: {open_ids}" if found else "nothing asks for input"
        )
    known: dict[str, InputRequest] = {each.id: each for each in found}
    for each in ids:
        if each not in known:
            raise CommandFailed(f"no question {each!r} is open; `perdure inputs list` lists them")
    return [known[each] for each in ids]
