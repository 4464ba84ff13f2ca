"""`perdure models ...`: the models that sessions can use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter
from perdure.cli.providers import find_provider
from perdure.cli.terminal import Part, Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.providers import Model

app = typer.Typer(
    help="List, test and choose models.",
    epilog="Start with `perdure models test`, which calls the default model once.",
    no_args_is_help=True,
)

Ref = Annotated[str, typer.Argument(help="The model's id or name.", show_default=False)]


@app.command("list")
def list_models(
    provider: Annotated[
        str | None, typer.Option(help="Only this provider's, by id or name.", show_default=False)
    ] = None,
    stale: Annotated[
        bool, typer.Option("--stale", help="Include models that their provider no longer lists.")
    ] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List the models of all providers, oldest first. The default model is marked."""
    enter(_list(connect(url, token, org), provider, stale, as_json))


async def _list(client: Client, provider: str | None, stale: bool, as_json: bool) -> None:
    async with client:
        if provider is None:
            found = await client.list_models(include_stale=stale)
        else:
            place = await find_provider(client, provider)
            found = await client.list_provider_models(place.id, include_stale=stale)
        default = await _default(client)

    def row(each: Model) -> tuple[Part, ...]:
        state = _state(each)
        style = "green" if state == "ready" else "dim"
        name: Part = (each.model_id, "bold") if each.id == default else each.model_id
        mark = "default" if each.id == default else ""
        return each.id, name, each.provider_name or "", (state, style), _context(each), mark

    columns = ("MODEL", "NAME", "PROVIDER", "STATE", "CONTEXT", "")
    Screen().listing(found, columns, row, as_json=as_json)


def _state(model: Model) -> str:
    if model.healthy is True:
        return "ready"
    return "stale" if model.stale_since else "not usable" if model.enabled else "disabled"


def _context(model: Model) -> str:
    """Return the size of the context window in tokens, if known."""
    from perdure.domain.model_profiles import ModelProfile

    if model.context_tokens is not None:
        return str(model.context_tokens)
    limits = model.profile.limits if isinstance(model.profile, ModelProfile) else None
    return str(limits.context) if limits is not None else ""


async def _default(client: Client) -> str | None:
    organization = await client.get_organization((await client.identity()).organization_id)
    return organization.default_model_id


@app.command()
def add(
    provider: Annotated[str, typer.Argument(help="The provider's id or name.", show_default=False)],
    name: Annotated[str, typer.Argument(help="The vendor's name of the model.", show_default=False)],
    title: Annotated[
        str | None, typer.Option(help="The model's name for people.", show_default="the vendor's name")
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Register a model of a provider. The first one becomes the default.

    Example: perdure models add openai gpt-5-mini
    """
    enter(_add(connect(url, token, org), provider, name, title or name, as_json))


async def _add(client: Client, provider: str, name: str, title: str, as_json: bool) -> None:
    async with client:
        place = await find_provider(client, provider)
        model = await client.create_model(place.id, model_id=name, display_name=title)
    if as_json:
        Screen().json(model)
    else:
        Screen().line("added ", (model.id, "bold"), f" ({model.model_id})")


@app.command("default")
def set_default(model: Ref, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Make a model the default of the organization."""
    enter(_set_default(connect(url, token, org), model))


async def _set_default(client: Client, ref: str) -> None:
    async with client:
        model = await find_model(client, ref)
        organization = (await client.identity()).organization_id
        await client.update_organization(organization, default_model_id=model.id)
    Screen().line(f"{model.model_id} is the default model now")


@app.command("test")
def call_once(
    model: Annotated[
        str | None, typer.Argument(help="The model's id or name.", show_default="the default model")
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Call a model once, and show how long it took, its tokens, cost and use of a tool.

    The status is 1 if the call fails. It is a real call, which the vendor may charge for.
    """
    if not enter(_try(connect(url, token, org), model, as_json)):
        raise typer.Exit(1)


async def _try(client: Client, ref: str | None, as_json: bool) -> bool:
    from perdure.cli.model_test import call_model, print_test

    async with client:
        ref = ref or await _default(client)
        if ref is None:
            raise CommandFailed("there is no default model: name one; `perdure models list` lists them")
        found = await call_model(client, await find_model(client, ref))
    screen = Screen()
    if as_json:
        screen.json(found)
    else:
        print_test(screen, found)
    return found.ok


async def find_model(client: Client, ref: str) -> Model:
    """Return the model with this id, or of this name. Raises CommandFailed."""
    models = await client.list_models(include_stale=True)
    found = [each for each in models if ref in (each.id, each.model_id, each.display_name)]
    usable = [each for each in found if each.healthy is True] or found
    if not usable:
        raise CommandFailed(f"no model is called {ref!r}; `perdure models list` lists them")
    if len(usable) > 1:
        ids = ", ".join(f"{each.id} ({each.provider_name})" for each in usable)
        raise CommandFailed(f"{len(usable)} models are called {ref!r}; give one of the ids {ids}")
    return usable[0]
