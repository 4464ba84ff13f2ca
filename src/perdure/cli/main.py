"""The `perdure` command. Slow imports happen inside the commands that need them."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from typer.core import TyperGroup
from typer.main import get_group

from perdure import __version__
from perdure.cli import doctor, keep, participants, session_resume, sessions, spend, transfers
from perdure.cli.common import (
    DEFAULT_URL,
    Data,
    DatabaseUrl,
    Org,
    Token,
    Url,
    connect,
    enter,
    pairs_of,
    read_text,
)
from perdure.cli.failures import FAILED, USAGE, end_with
from perdure.cli.terminal import Screen, complain, write_any_text

# Typer exports only this subclass. Its other subclasses, for unknown commands and options, look the same.
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])

_GROUPS = {
    "providers": ("providers", "app"),
    "models": ("models", "app"),
    "agents": ("agents", "app"),
    "files": ("files", "app"),
    "images": ("images", "app"),
    "memories": ("memories", "app"),
    "storage": ("storage", "app"),
    "secrets": ("storage", "secrets"),
    "schedules": ("schedules", "app"),
    "limits": ("limits", "app"),
    "retention": ("retention", "app"),
    "erase": ("erase", "app"),
    "mcp": ("mcp", "app"),
    "skills": ("skills", "app"),
    "connections": ("connections", "app"),
    "approvals": ("answers", "approvals"),
    "inbox": ("inbox", "app"),
    "callbacks": ("answers", "callbacks"),
    "feedback": ("feedback", "app"),
    "guardrails": ("guardrails", "app"),
    "inputs": ("inputs", "app"),
    "tasks": ("tasks", "app"),
    "webhooks": ("webhooks", "app"),
    "budgets": ("budgets", "app"),
    "hooks": ("hooks", "app"),
    "admin": ("admin", "app"),
    "history": ("history", "app"),
    "audit": ("audit", "app"),
}
"""Groups of commands, with the module and the name in it."""


class Commands(TyperGroup):
    """All commands. `_GROUPS` are imported unless another command is run: the server starts without them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        self._import_groups()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; None if there is none of this name."""
        if cmd_name not in self.commands:
            self._import_groups()
        return super().get_command(ctx, cmd_name)

    def _import_groups(self) -> None:
        for command, (module, name) in _GROUPS.items():
            if command not in self.commands:
                group = get_group(getattr(import_module(f"perdure.cli.{module}"), name))
                group.name = command
                self.commands[command] = group


app = typer.Typer(
    cls=Commands,
    name="perdure",
    help="A durable server for agent sessions.",
    epilog="Start with `perdure demo`, or with `perdure serve` and, in another terminal, `perdure chat`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
keys = typer.Typer(help="Manage access tokens and the master key.", no_args_is_help=True)
sessions.app.add_typer(participants.app, name="participants")
sessions.app.command("resume")(session_resume.resume)
app.add_typer(sessions.app, name="sessions")
app.add_typer(keys, name="keys")
app.command()(spend.spend)
app.command()(doctor.doctor)
app.command()(keep.backup)
app.command()(keep.restore)
app.command()(keep.verify)
app.command("export")(transfers.export)
app.command("import")(transfers.import_)


def _print_version(requested: bool) -> None:
    if requested:
        Screen().line(f"perdure {__version__}")
        raise typer.Exit


@app.callback()
def top(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A durable server for agent sessions."""


@app.command()
def version() -> None:
    """Print the version."""
    Screen().line(f"perdure {__version__}")


@app.command()
def settings() -> None:
    """List the server's settings, which are environment variables."""
    from perdure.settings import described

    screen = Screen()
    for each in described():
        default = f" (default: {each.default})" if each.default else ""
        screen.line((each.variable, "bold"), default)
        screen.line(f"    {each.meaning}")


Host = Annotated[str | None, typer.Option(help="The address to listen on.", show_default="127.0.0.1")]
Port = Annotated[
    int | None, typer.Option(help="The port; 0 picks a free one.", min=0, max=65535, show_default="9000")
]
Tools = Annotated[
    list[Path] | None,
    typer.Option(help="A Python file with functions below @tool; repeat it for several.", show_default=False),
]


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
    tools: Tools = None,
    local_model: Annotated[
        bool,
        typer.Option(
            "--local-model",
            help="Also run the small model of `perdure demo` on this machine: no API key, no network.",
        ),
    ] = False,
) -> None:
    """Run the server: the API, the MCP endpoint (/mcp) and the worker.

    Other settings are environment variables: `perdure settings` lists them.
    """
    from perdure.cli.serving import ServeOptions, run

    raise typer.Exit(run(ServeOptions(host, port, data, database_url, tuple(tools or ()), local_model)))


@app.command()
def api(
    host: Host = None,
    port: Port = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
    tools: Tools = None,
) -> None:
    """Run the API and the MCP endpoint without a worker: processes of `perdure worker` run the turns.

    It needs PostgreSQL. Give all processes the same settings.
    """
    from perdure.cli.serving import ServeOptions, run

    raise typer.Exit(run(ServeOptions(host, port, data, database_url, tuple(tools or ())), "api"))


@app.command()
def worker(
    host: Host = None,
    port: Port = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
    tools: Tools = None,
) -> None:
    """Run turns, schedules and webhooks, without the API: it listens only for /health and /metrics.

    It needs PostgreSQL. Give all processes the same settings.
    """
    from perdure.cli.serving import ServeOptions, run

    raise typer.Exit(run(ServeOptions(host, port, data, database_url, tuple(tools or ())), "worker"))


Attach = Annotated[
    list[Path] | None,
    typer.Option(
        help="A file that goes with the (first) message; repeat it for several.", show_default=False
    ),
]


@app.command()
def chat(
    session_id: Annotated[
        str | None, typer.Argument(help="The id of a session to continue.", show_default=False)
    ] = None,
    agent: Annotated[
        str | None, typer.Option(help="The agent for a new session, by name.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model to use, by id or name.", show_default="the agent's")
    ] = None,
    when_busy: Annotated[
        str, typer.Option(help="If a turn is running: steer it, queue, reject or interrupt.")
    ] = "steer",
    var: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE for a variable of the agent's prompt; repeat the option for several.",
            show_default=False,
        ),
    ] = None,
    attach: Attach = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Talk to an agent. Without a terminal, send each line of standard input and print the answers."""
    from perdure.cli.attached import read_attachment
    from perdure.cli.chat import chat as run_chat
    from perdure.domain.messages import WhenBusy

    if session_id is not None and agent is not None:
        raise typer.BadParameter(
            "an existing session keeps its agent: omit either --agent or the session id",
            param_hint="--agent",
        )
    policies = get_args(WhenBusy)
    if when_busy not in policies:
        raise typer.BadParameter(f"{when_busy!r} is none of {', '.join(policies)}", param_hint="--when-busy")
    policy = None if when_busy == "steer" else cast("WhenBusy", when_busy)
    variables = pairs_of(var, "--var", "VALUE")
    client = connect(url, token, org, retries=4, program="perdure-chat")
    files = [read_attachment(each) for each in attach or ()]
    raise typer.Exit(run_chat(client, session_id, agent, model, policy, {**variables}, files))


@app.command()
def run(
    text: Annotated[str, typer.Argument(help="The message; `-` reads standard input.", show_default=False)],
    agent: Annotated[str | None, typer.Option(help="The agent, by id or name.", show_default="none")] = None,
    schema: Annotated[
        Path | None,
        typer.Option(help="A file with a JSON Schema of the answer; prints its value.", show_default=False),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file for the agent, as LOCAL or LOCAL:/PATH; repeat it for several.", show_default=False
        ),
    ] = None,
    var: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE, a variable of the agent's prompt; repeat it for several.", show_default=False
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="The session's title.", show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option(help="The model to use, by id or name.", show_default="the agent's")
    ] = None,
    attach: Attach = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Run an agent once and print its answer.

    The exit status is 0 for an answer, 1 for a failure, and 3 if the agent waits for somebody.

    After Ctrl-C, the run goes on.
    """
    from perdure.cli import runs
    from perdure.cli.attached import content_of, read_attachment

    fields = runs.fields_of(agent, model, title, file or (), var or ())
    wanted, message = runs.read_schema(schema), runs.read_message(text)
    content = content_of(message, [read_attachment(each) for each in attach or ()])
    client = connect(url, token, org, retries=4)
    raise typer.Exit(enter(runs.run_once(client, content, wanted, fields, as_json=as_json)))


@app.command()
def demo() -> None:
    """Kill a session at work and show it resume: a real server and model, no configuration needed."""
    from perdure.cli.demo import demo as run_demo

    enter(run_demo())


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the access token is for.")] = "cli",
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Create an access token and print it once: the server keeps only its hash."""
    from perdure.settings import load
    from perdure.wiring import create_key as create_token

    token = enter(create_token(load(data=data, database_url=database_url), name))
    Screen().line(token)
    Screen(stderr=True).line(
        "This access token is not shown again. Clients send it as `Authorization: Bearer ...`; "
        "the `perdure` command reads it from PERDURE_TOKEN."
    )


@keys.command("rotate-master")
def rotate_master_key(
    new_key: Annotated[
        Path | None,
        typer.Option(
            "--new-key",
            help="A file that contains the new key; `-` reads standard input.",
            show_default="a new random key",
        ),
    ] = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Replace the master key. Re-encrypts the data keys; the secrets themselves do not change.

    If PERDURE_MASTER_KEY is set, the command rotates from PERDURE_MASTER_KEY_PREVIOUS to it. Otherwise it
    writes a new key to the file master.key in the data folder. Servers on PostgreSQL may keep running; stop a
    server on SQLite first.
    """
    from perdure.settings import load
    from perdure.store.master_key import parse_master_key
    from perdure.wiring import rotate_master

    settings = load(data=data, database_url=database_url)
    key = None if new_key is None else parse_master_key(read_text(new_key, "--new-key"))
    rotation = enter(rotate_master(settings, key))
    screen = Screen()
    screen.line(f"Data keys re-encrypted: {rotation.rewrapped}. Current master key: {rotation.key}.")
    if settings.master_key:
        screen.line(
            "PERDURE_MASTER_KEY_PREVIOUS is no longer needed: remove it from the servers' environment."
        )
    else:
        file = settings.data_folder / "master.key"
        screen.line(f"The key is in {file}. Older backups still need the previous key.")


def main() -> None:
    """Run the command. Every failure prints one readable line and exits with a status.

    The status is 1, 2 for wrong usage and for a missing package, or 130 after Ctrl-C.
    """
    write_any_text()
    status: object = None
    try:
        status = app(standalone_mode=False)
    except UsageError as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # it has printed the help
            complain(_usage(error))
        sys.exit(USAGE)
    except typer.Abort:
        complain("aborted")
        sys.exit(FAILED)
    except Exception as error:  # noqa: BLE001 - ends the process
        end_with(error)
    sys.exit(status if isinstance(status, int) else 0)


def _usage(error: typer.BadParameter) -> str:
    """Say what is wrong with the command line, what was probably meant, and where help is."""
    if error.ctx is None:
        return error.format_message()
    return f"{error.format_message()}\n`{error.ctx.command_path} --help` shows the usage."
