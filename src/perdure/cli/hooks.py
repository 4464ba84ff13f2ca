"""`perdure hooks ...`: services that decide about model calls and tool calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.common import (
    DEFAULT_URL,
    CommandFailed,
    Json,
    Org,
    Token,
    Url,
    connect,
    enter,
    read_text,
)
from perdure.cli.terminal import Screen
from perdure.domain.policy_hooks import HookEvent

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.hook_tests import HookReply

app = typer.Typer(
    help="Try policy hooks, which decide about model calls and tool calls.", no_args_is_help=True
)


@app.callback()
def hooks() -> None:
    """Have `test` be a command of its group, which has no other yet."""


@app.command("test")
def ask_hook(
    target: Annotated[str, typer.Argument(help="Where the hook is asked.", show_default=False)],
    secret: Annotated[
        Path,
        typer.Option(
            "--secret",
            help="A file with the secret that requests are signed with; `-` reads standard input.",
            show_default=False,
        ),
    ],
    event: Annotated[
        HookEvent, typer.Option(help="What to ask about: before_model, before_tool or after_tool.")
    ] = "before_tool",
    tool: Annotated[str, typer.Option(help="The tool of the made-up call.")] = "web_fetch",
    arguments: Annotated[str, typer.Option(help="The arguments of the call, as JSON.")] = "{}",
    text: Annotated[str, typer.Option(help="The call's result, or the user's message.")] = "This is a test.",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.", min=0.1, max=30)] = 5,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Ask a hook about a call that is made up, and print its answer. The status is 1 without a decision."""
    config = {
        "url": target,
        "secret": read_text(secret, "--secret").strip(),
        "events": [event],
        "timeout_seconds": timeout,
    }
    call = (event, tool, _object_of(arguments), text)
    enter(_ask(connect(url, token, org), config, call, as_json))


def _object_of(text: str) -> dict[str, Any]:
    import msgspec

    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"this is no JSON object: {error}", param_hint="--arguments") from None
    return found


async def _ask(
    client: Client,
    config: dict[str, Any],
    call: tuple[HookEvent, str, dict[str, Any], str],
    as_json: bool,
) -> None:
    async with client:
        reply = await client.test_policy_hook(config, *call)
    if as_json:
        Screen().json(reply)
    elif reply.ok:
        _show(reply)
    if not reply.ok:
        after = "goes on without it" if reply.on_failure == "open" else "blocks the call"
        raise CommandFailed(f"the hook gave no decision: {reply.error}. By default, a session {after}.")


def _show(reply: HookReply) -> None:
    import msgspec

    from perdure.domain.visible import exact

    why = "" if reply.reason is None else f": {exact(reply.reason)}"
    Screen().line(f"{reply.decision} (in {reply.duration_ms} ms){why}")
    for name, value in (("arguments", reply.arguments), ("result", reply.result)):
        if value is not None:
            Screen().line(f"{name}: {exact(msgspec.json.encode(value).decode())}")
    for each in reply.messages:
        Screen().line(f"message {exact(each.id)}: {exact(each.text)}")
