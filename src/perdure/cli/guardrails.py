"""`perdure guardrails ...`: try guardrails on a text, and list examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter, read_text
from perdure.cli.terminal import Screen
from perdure.cli.texts import short

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.guardrail_checks import GuardrailStage
    from perdure.domain.guardrail_trials import GuardrailExample, GuardrailsDryRunHit
    from perdure.domain.messages import JsonObject

app = typer.Typer(help="Try guardrails on a text, and list examples.", no_args_is_help=True)


@app.command()
def check(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="A JSON file with the `checks`.", show_default=False),
    ],
    text: Annotated[
        Path, typer.Argument(metavar="[TEXT]", help="A file with the text.", show_default="standard input")
    ] = Path("-"),
    stage: Annotated[str, typer.Option(help="output, tool_use or tool_output.")] = "output",
    tool: Annotated[
        str | None, typer.Option(help="The tool that is called or has the result.", show_default=False)
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Show what guardrails find in a text. Judges and moderation services are not called.

    Example: echo "Pay to 4111 1111 1111 1111" | perdure guardrails check checks.json
    """
    if str(config) == str(text) == "-":
        raise typer.BadParameter("the configuration and the text cannot both be standard input")
    given, found = _config(config), _stage(stage)
    enter(_check(connect(url, token, org), given, found, read_text(text, "TEXT"), tool, as_json))


def _config(path: Path) -> JsonObject:
    import msgspec

    try:
        found: Any = msgspec.json.decode(read_text(path, "CONFIG"))
    except (msgspec.DecodeError, RecursionError) as error:
        raise typer.BadParameter(f"{path} is not valid JSON: {error}", param_hint="CONFIG") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{path} must have an object with `checks`", param_hint="CONFIG")
    return cast("JsonObject", found)


def _stage(text: str) -> GuardrailStage:
    from perdure.domain.guardrail_checks import GuardrailStage

    if text not in get_args(GuardrailStage):
        names = ", ".join(get_args(GuardrailStage))
        raise typer.BadParameter(f"{text!r} is none of {names}", param_hint="--stage")
    return cast("GuardrailStage", text)


async def _check(
    client: Client, config: JsonObject, stage: GuardrailStage, text: str, tool: str | None, as_json: bool
) -> None:
    async with client:
        found = await client.dry_run_guardrails(config, stage, text, tool)
    screen = Screen()
    if as_json:
        screen.json(found)
        return
    if found.hits:
        screen.table(("CHECK", "TYPE", "ACTION", "REASON", "MATCHED"), map(_hit_row, found.hits))
    screen.line("The text is blocked." if found.blocked else "The text is not blocked.")
    if found.not_run:
        screen.line(f"Not run: {', '.join(each.check_id for each in found.not_run)}")


def _hit_row(hit: GuardrailsDryRunHit) -> tuple[str, ...]:
    return hit.check_id, hit.rule_type, hit.action, hit.reason_code, short(hit.matched or "")


@app.command()
def examples(
    name: Annotated[
        str | None,
        typer.Argument(help="Show the configuration of this example.", show_default=False),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List configurations to start from, or show one as JSON.

    Example: perdure guardrails examples card_numbers > checks.json
    """
    enter(_examples(connect(url, token, org), name, as_json))


async def _examples(client: Client, name: str | None, as_json: bool) -> None:
    async with client:
        found = await client.list_guardrail_examples()
    screen = Screen()
    if name is None:
        columns = ("NAME", "TYPES", "STAGES", "DATA GOES TO", "DESCRIPTION")
        screen.listing(found, columns, _example_row, as_json=as_json)
        return
    config = next((each.config for each in found if each.name == name), None)
    if config is None:
        raise CommandFailed(f"there is no example {name!r}: see perdure guardrails examples")
    screen.json(config)


def _example_row(example: GuardrailExample) -> tuple[str, ...]:
    return (
        example.name,
        ", ".join(example.check_types),
        ", ".join(example.stages),
        example.data_egress,
        example.description,
    )
