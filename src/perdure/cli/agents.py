"""`perdure agents ...`: agents, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter, read_text
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.agents import Agent

app = typer.Typer(
    help="Create agents, and keep them in files.",
    epilog="Start with `perdure agents create helper --prompt 'Answer in one sentence.'`.",
    no_args_is_help=True,
)

Ref = Annotated[str, typer.Argument(help="The agent's id or name.", show_default=False)]


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(help="The name: lower-case words joined by hyphens.", show_default=False)
    ],
    prompt: Annotated[str | None, typer.Option(help="The system prompt.", show_default=False)] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            "--prompt-file", help="A file with the prompt; - for standard input.", show_default=False
        ),
    ] = None,
    description: Annotated[
        str | None, typer.Option(help="What the agent is for.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model, by id or name.", show_default="the default model")
    ] = None,
    harness: Annotated[
        str | None, typer.Option(help="The harness, by name.", show_default="the organization's default")
    ] = None,
    capability: Annotated[
        list[str] | None,
        typer.Option("--capability", metavar="REF", help="Add a capability; repeatable.", show_default=False),
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Add a tag; repeatable.", show_default=False)] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Create an agent. One whose prompt has variables comes from a file: see `perdure agents import`.

    Example: perdure agents create helper --prompt "Answer in one sentence." --capability current_time
    """
    if (prompt is None) == (prompt_file is None):
        raise typer.BadParameter("pass either --prompt or --prompt-file", param_hint="--prompt")
    text = prompt if prompt_file is None else read_text(prompt_file, "--prompt-file")
    fields: dict[str, Any] = {"name": name, "system_prompt": text}
    optional = {"description": description, "harness_name": harness, "tags": tuple(tag) if tag else None}
    fields |= {key: value for key, value in optional.items() if value is not None}
    enter(_create(connect(url, token, org), fields, model, capability or [], as_json))


async def _create(
    client: Client, fields: dict[str, Any], model: str | None, capabilities: list[str], as_json: bool
) -> None:
    from perdure.cli.models import find_model
    from perdure.client import CapabilityRef

    async with client:
        if not (await client.check_agent_name(fields["name"])).available:
            raise CommandFailed(
                f"an agent is called {fields['name']!r} already, or the name is reserved: choose another. To "
                "replace an agent, change its file (`perdure agents export`) and import it"
            )
        if model is not None:
            fields["default_model_id"] = (await find_model(client, model)).id
        agent = await client.create_agent(
            **fields, capabilities=tuple(CapabilityRef(each) for each in capabilities)
        )
    _print(agent, "created", as_json)


def _print(agent: Agent, done: str, as_json: bool) -> None:
    screen = Screen()
    if as_json:
        screen.json(agent)
        return
    screen.line(f"{done} ", (agent.id, "bold"), f" ({agent.name})")
    screen.line(f"Talk to it: perdure chat --agent {agent.name}")


@app.command("list")
def list_agents(
    search: Annotated[
        str | None, typer.Option(help="Only agents with this text in their names.", show_default=False)
    ] = None,
    archived: Annotated[bool, typer.Option("--archived", help="Include archived agents.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List the agents, newest first."""
    enter(_list(connect(url, token, org), search, archived, as_json))


async def _list(client: Client, search: str | None, archived: bool, as_json: bool) -> None:
    async with client:
        found = [
            each async for each in client.iterate_agents(search=search, include_archived=archived or None)
        ]
    columns = ("AGENT", "NAME", "STATUS", "CAPABILITIES", "DESCRIPTION")
    Screen().listing(found, columns, _row, as_json=as_json)


def _row(agent: Agent) -> tuple[str, ...]:
    capabilities = ", ".join(each.ref for each in agent.capabilities)
    return agent.id, agent.name, agent.status, capabilities, (agent.description or "")[:200]


@app.command("import")
def import_agent(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Files of agents; - for standard input.", show_default=False),
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(help="A built-in example instead: meeting-notes or release-writer.", show_default=False),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Create agents from files, or replace those of the same names.

    A file is Markdown with YAML front matter, a YAML or JSON document, or just a prompt. Example:
    perdure agents import agents/*.md
    """
    if bool(files) == (example is not None):
        raise typer.BadParameter("give either files or --example", param_hint="FILE")
    texts = [(str(each), read_text(each, "FILE")) for each in files or ()]
    enter(_import(connect(url, token, org), texts, example, as_json))


async def _import(client: Client, texts: list[tuple[str, str]], example: str | None, as_json: bool) -> None:
    from perdure.client import ApiError

    async with client:
        if example is not None:
            _print(await client.import_agent(example=example), "imported", as_json)
        for name, text in texts:
            try:
                agent = await client.import_agent(text)
            except ApiError as error:
                raise CommandFailed(f"{name}: {error.message}") from error
            _print(agent, "imported", as_json)


@app.command()
def export(agent: Ref, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Print an agent as a file, which `import` takes.

    Example: perdure agents export support-desk > support-desk.md
    """
    enter(_export(connect(url, token, org), agent))


async def _export(client: Client, ref: str) -> None:
    async with client:
        text = await client.export_agent(ref)
    Screen().content(text.encode())
