"""`perdure providers ...`: the services that host models, with their API keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.api_keys import KeyStdin, KeyVariable, NoKey, check_key_options, read_key
from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, Yes, confirm, connect, enter
from perdure.cli.terminal import Part, Screen

if TYPE_CHECKING:
    from perdure.client import ApiError, Client
    from perdure.domain.providers import DriverCredentials, KeyCheck, Model, Provider

app = typer.Typer(
    help="Register providers of models, and check their API keys.",
    epilog="Start with `perdure providers add openai`, which asks for the API key.",
    no_args_is_help=True,
)

Type = Annotated[
    str | None,
    typer.Option(
        "--type",
        help="The vendor or protocol; `perdure providers types` lists them.",
        show_default="the name, if it is a type; openai_completions with --base-url",
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", metavar="URL", help="The API's URL.", show_default="the vendor's own"),
]
NoCheck = Annotated[
    bool, typer.Option("--no-check", help="Store the API key without asking the vendor about it.")
]
ProviderRef = Annotated[str, typer.Argument(help="The provider's id or name.", show_default=False)]
ANY_SERVER = "openai_completions"
"""The type of most servers that have an address of their own."""
SHOWN_MODELS = 10
_STYLES = {"valid": "green", "refused": "red", "unchecked": "yellow"}
_HEALTH_WORDS: dict[str, Part] = {
    "closed": ("ok", "green"),
    "open": ("failing", "red"),
    "half_open": ("trying again", "yellow"),
}
"""What people read for the states of a circuit breaker: to them, `closed` sounds like a fault."""


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The provider's name, such as openai.", show_default=False)],
    type_: Type = None,
    base_url: BaseUrl = None,
    key_env: KeyVariable = None,
    key_stdin: KeyStdin = False,
    no_key: NoKey = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Register this model of the provider; repeatable.",
            show_default="all that the provider lists",
        ),
    ] = None,
    no_check: NoCheck = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Register a provider and its models. Asks for the API key, without showing it.

    Example: perdure providers add anthropic --key-env ANTHROPIC_API_KEY
    """
    check_key_options(key_env, key_stdin, no_key)
    client = connect(url, token, org)
    enter(_add(client, name, type_, base_url, (key_env, key_stdin, no_key), model, not no_check, as_json))


async def _add(
    client: Client,
    name: str,
    type_: str | None,
    base_url: str | None,
    key: tuple[str | None, bool, bool],
    models: list[str] | None,
    check: bool,
    as_json: bool,
) -> None:
    from perdure.client import ApiError

    async with client:
        known = [each for each in await client.list_providers() if each.name == name]
        if known:
            again = f"choose another name, or change it: `perdure providers update {name}`"
            raise CommandFailed(f"a provider is called {name!r} already ({known[0].id}): {again}")
        provider_type = await _type_of(client, name, type_, base_url)
        api_key = await _key_for(client, provider_type, base_url, key)
        create = client.create_provider if check else client.create_provider_unchecked
        try:
            provider = await create(
                name=name, provider_type=provider_type, base_url=base_url, api_key=api_key
            )
        except ApiError as error:
            raise _advised(error) from error
        screen = Screen()
        if not as_json:
            screen.line("added ", (provider.id, "bold"), f" ({provider.name})", *_said_of_key(provider))
        note = await _register(client, provider, models)
        if as_json:
            screen.json(await client.get_provider(provider.id))
        else:
            await _print_models(client, provider, screen)
        if note is not None:
            Screen(stderr=True).line(f"note: {note}")


def _advised(error: ApiError) -> Exception:
    if error.code != "provider_key_refused":
        return error
    return CommandFailed(f"{error.message}\nCorrect the key; --no-check stores it without asking the vendor.")


async def _type_of(client: Client, name: str, type_: str | None, base_url: str | None) -> str:
    known = [each.driver for each in (await client.get_provider_config()).drivers]
    if type_ is None:
        type_ = name if name in known else ANY_SERVER if base_url is not None else None
    if type_ is None or type_ not in known:
        if type_ is None:
            wrong = f"{name!r} is not a provider type, so give --base-url, or --type with"
        else:
            wrong = f"{type_!r} is not a provider type: choose"
        raise typer.BadParameter(f"{wrong} one of {', '.join(known)}", param_hint="--type")
    return type_


async def _key_for(
    client: Client, provider_type: str, base_url: str | None, key: tuple[str | None, bool, bool]
) -> str | None:
    """Read the key as the options say; ask for one only if the type has keys."""
    variable, stdin, none = key
    drivers = (await client.get_provider_config()).drivers
    fields = next(each.credential_schema.fields for each in drivers if each.driver == provider_type)
    asked = any(each.name == "api_key" for each in fields)
    if none or not (asked or variable or stdin):
        return None
    needed = base_url is None and any(each.required for each in fields)
    return read_key(variable, stdin, needed=needed)


def _said_of_key(provider: Provider) -> tuple[Part, ...]:
    if provider.key_status is None:
        return ()
    said = {"valid": "the API key is valid", "unchecked": "the API key is stored, but not checked"}
    return ": ", (said.get(provider.key_status, provider.key_status), _STYLES[provider.key_status])


async def _register(client: Client, provider: Provider, models: list[str] | None) -> str | None:
    """Register the models that are named, or all that the provider lists; return what went wrong."""
    from perdure.client import ApiError

    for name in dict.fromkeys(models or ()):
        await client.create_model(provider.id, model_id=name, display_name=name)
    if models:
        return None
    if provider.provider_type == "llmsim":
        await client.create_model(provider.id, model_id="llmsim", display_name="Simulated")
        return None
    try:
        await client.sync_models(provider.id)
    except ApiError as error:
        return (
            f"its list of models cannot be read: {error.message}\n"
            f"Register a model by its name: perdure models add {provider.id} NAME"
        )
    return None


async def _print_models(client: Client, provider: Provider, screen: Screen) -> None:
    models = [each for each in await client.list_provider_models(provider.id) if each.enabled]
    if not models:
        return
    names = ", ".join(each.model_id for each in models[:SHOWN_MODELS])
    more = f" and {len(models) - SHOWN_MODELS} more" if len(models) > SHOWN_MODELS else ""
    screen.line(f"models: {names}{more}")
    screen.line(await _next_step(client, models))


async def _next_step(client: Client, models: list[Model]) -> str:
    organization = await client.get_organization((await client.identity()).organization_id)
    default = organization.default_model_id
    if default is None:
        return f"No model is the default yet. Choose one: perdure models default {models[0].model_id}"
    if default in {each.id for each in models}:
        return "Talk to it: perdure chat"
    return f"Talk to it: perdure chat --model {models[0].model_id}"


@app.command()
def update(
    provider: ProviderRef,
    key_env: KeyVariable = None,
    key_stdin: KeyStdin = False,
    no_key: NoKey = False,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", metavar="URL", help="Another URL of the API.", show_default=False),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Another name.", show_default=False)] = None,
    no_check: NoCheck = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Change a provider's API key, address or name.

    Without an option it asks for a new API key, without showing it. Turns that begin later use what was
    changed. Example: perdure providers update anthropic --key-env ANTHROPIC_API_KEY
    """
    check_key_options(key_env, key_stdin, no_key)
    changes: dict[str, Any] = {}
    if base_url is not None:
        changes["base_url"] = base_url
    if name is not None:
        changes["name"] = name
    if no_key:
        changes["api_key"] = None
    elif key_env or key_stdin or not changes:
        changes["api_key"] = read_key(key_env, key_stdin, needed=True)
    enter(_update(connect(url, token, org), provider, changes, not no_check, as_json))


async def _update(client: Client, ref: str, changes: dict[str, Any], check: bool, as_json: bool) -> None:
    from perdure.client import ApiError

    async with client:
        found = await find_provider(client, ref)
        change = client.update_provider if check else client.update_provider_unchecked
        try:
            provider = await change(found.id, **changes)
        except ApiError as error:
            raise _advised(error) from error
    screen = Screen()
    if as_json:
        screen.json(provider)
    else:
        screen.line("updated ", (provider.id, "bold"), f" ({provider.name})", *_said_of_key(provider))


@app.command()
def remove(
    provider: ProviderRef,
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Remove a provider with its API key and its models. Turns that need one of them fail from then on.

    Asks for confirmation on a terminal; without one, pass --yes.
    """
    if not yes:
        confirm(f"Remove the provider {provider} with its models?")
    enter(_remove(connect(url, token, org), provider))


async def _remove(client: Client, ref: str) -> None:
    async with client:
        found = await find_provider(client, ref)
        await client.delete_provider(found.id)
    Screen().line("removed ", (found.id, "bold"), f" ({found.name})")


@app.command()
def types(as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """List the types of provider, and which need an API key."""
    enter(_types(connect(url, token, org), as_json))


async def _types(client: Client, as_json: bool) -> None:
    async with client:
        found = (await client.get_provider_config()).drivers

    def row(each: DriverCredentials) -> tuple[Part, ...]:
        fields = each.credential_schema.fields
        needed = "required" if any(field.required for field in fields) else "optional" if fields else "none"
        return each.driver, needed, _plain(each.credential_schema.instructions_markdown)

    Screen().listing(found, ["TYPE", "KEY", "NOTES"], row, as_json=as_json)


def _plain(markdown: str) -> str:
    """Instructions as they are read in a terminal: links as addresses, and this command's options."""
    return re.sub(r"\[[^\[\]]*\]\(([^()]*)\)", r"\1", markdown).replace("`base_url`", "`--base-url`")


@app.command()
def check(
    provider: Annotated[
        str | None, typer.Argument(help="The provider's id or name.", show_default="credentials to try")
    ] = None,
    type_: Annotated[
        str | None,
        typer.Option("--type", help="Try an API key for this type of provider.", show_default=False),
    ] = None,
    base_url: BaseUrl = None,
    key_env: KeyVariable = None,
    key_stdin: KeyStdin = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Check that a provider answers and accepts its API key. The status is 1 if it does not.

    With --type instead of a provider, check an API key that is not stored. Example:
    perdure providers check openai
    """
    check_key_options(key_env, key_stdin)
    if (provider is None) == (type_ is None):
        raise typer.BadParameter("give either a provider or --type", param_hint="PROVIDER")
    if provider is not None and (base_url or key_env or key_stdin):
        raise typer.BadParameter("a stored provider is checked with its own address and key")
    found = enter(_check(connect(url, token, org), provider, type_, base_url, key_env, key_stdin))
    screen = Screen()
    if as_json:
        screen.json(found)
    else:
        _print_check(screen, found)
    if not found.ok:
        raise typer.Exit(1)


async def _check(
    client: Client,
    ref: str | None,
    type_: str | None,
    base_url: str | None,
    key_env: str | None,
    key_stdin: bool,
) -> KeyCheck:
    async with client:
        if ref is not None:
            return await client.check_provider((await find_provider(client, ref)).id)
        key = read_key(key_env, key_stdin, needed=True) or ""
        return await client.check_provider_credentials(
            provider_type=type_ or "", base_url=base_url, api_key=key
        )


def _print_check(screen: Screen, found: KeyCheck) -> None:
    count = "1 model, " if found.models == 1 else f"{found.models} models, "
    models = "" if found.models is None else count
    verdict: Part = ("ok", "green") if found.ok else ("failed", "red")
    key: tuple[Part, ...] = ()
    if found.key_status is not None:
        key = (", API key ", (found.key_status, _STYLES[found.key_status]))
    screen.line(verdict, f": {models}{found.latency_ms} ms", *key)
    if found.error is not None:
        screen.line(f"  {found.error.message}")


@app.command("list")
def list_providers(
    as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List the providers, oldest first, with what is known of their API keys.

    HEALTH is `failing` while calls of one of the provider's models fail.
    """
    enter(_list(connect(url, token, org), as_json))


async def _list(client: Client, as_json: bool) -> None:
    async with client:
        found = await client.list_providers()
    columns = ["PROVIDER", "NAME", "TYPE", "STATUS", "KEY", "HEALTH", "URL"]
    if not any(_health(each) for each in found):
        columns.remove("HEALTH")

    def row(each: Provider) -> tuple[Part, ...]:
        status = each.key_status
        key: Part = "" if status is None else (status, _STYLES[status])
        state = _health(each)
        health = (_HEALTH_WORDS.get(state, state),) if "HEALTH" in columns else ()
        return each.id, each.name, each.provider_type, each.status, key, *health, each.base_url or ""

    Screen().listing(found, columns, row, as_json=as_json)


def _health(provider: Provider) -> str:
    """Return the state of the provider's circuit breakers; empty if the server does not say."""
    return str(getattr(getattr(provider, "health", None), "state", None) or "")


async def find_provider(client: Client, ref: str) -> Provider:
    """Return the provider with this id or name. Raises CommandFailed."""
    found = [each for each in await client.list_providers() if ref in (each.id, each.name)]
    if not found:
        raise CommandFailed(f"no provider is called {ref!r}; `perdure providers list` lists them")
    if len(found) > 1:
        ids = ", ".join(each.id for each in found)
        raise CommandFailed(f"{len(found)} providers are called {ref!r}; give one of the ids {ids}")
    return found[0]
