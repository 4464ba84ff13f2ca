"""`perdure webhooks ...`: URLs that hear of the end of every task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.webhooks import TaskWebhook, WebhookDelivery

app = typer.Typer(help="Manage URLs that hear of the end of every task.", no_args_is_help=True)

Hook = Annotated[str, typer.Argument(help="The webhook's id, from the list.", show_default=False)]


@app.command("list")
def list_webhooks(
    as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List the organization's webhooks. Their secrets are never shown."""
    enter(_list(connect(url, token, org), as_json))


async def _list(client: Client, as_json: bool) -> None:
    async with client:
        found = await client.list_webhooks()
    Screen().listing(found, ("WEBHOOK", "STATUS", "URL", "LAST ERROR"), _row, as_json=as_json)


def _row(hook: TaskWebhook) -> tuple[str, ...]:
    from perdure.domain.visible import exact

    status = "enabled" if hook.enabled else "disabled"
    return hook.id, status, exact(hook.url), exact(hook.disabled_reason or hook.last_error or "")


@app.command()
def add(
    target: Annotated[str, typer.Argument(help="Where events are sent.", show_default=False)],
    secret: Annotated[
        Path | None,
        typer.Option(
            "--secret",
            help="A file with the secret that requests are signed with; `-` reads standard input.",
            show_default="a new one, which is printed",
        ),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Add a webhook. A secret that the server makes is printed once."""
    given = None if secret is None else read_text(secret, "--secret").strip()
    enter(_add(connect(url, token, org), target, given, as_json))


async def _add(client: Client, target: str, secret: str | None, as_json: bool) -> None:
    async with client:
        hook = await client.create_webhook(target, secret)
    if as_json:
        Screen().json(hook)
        return
    Screen().line(f"added {hook.id}")
    if hook.secret is not None:
        Screen().line(f"secret: {hook.secret}")
        Screen(stderr=True).line("The secret is not shown again: your receiver verifies signatures with it.")


@app.command()
def enable(hook_id: Hook, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Enable a webhook: what waited is sent."""
    enter(_set(connect(url, token, org), hook_id, True))


@app.command()
def disable(hook_id: Hook, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Disable a webhook: no events are kept for it."""
    enter(_set(connect(url, token, org), hook_id, False))


async def _set(client: Client, hook_id: str, enabled: bool) -> None:
    async with client:
        await client.update_webhook(hook_id, enabled=enabled)
    Screen().line(f"{'enabled' if enabled else 'disabled'} {hook_id}")


@app.command()
def remove(hook_id: Hook, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Remove a webhook: nothing more is sent to it."""
    enter(_remove(connect(url, token, org), hook_id))


async def _remove(client: Client, hook_id: str) -> None:
    async with client:
        await client.delete_webhook(hook_id)
    Screen().line(f"removed {hook_id}")


@app.command("test")
def send_test(
    hook_id: Hook, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """Send a test event now, and say what became of it. The status is 1 if it was not accepted."""
    enter(_test(connect(url, token, org), hook_id, as_json))


async def _test(client: Client, hook_id: str, as_json: bool) -> None:
    async with client:
        sent = await client.test_webhook(hook_id)
    if as_json:
        Screen().json(sent)
    elif sent.state == "delivered":
        Screen().line(f"delivered: the receiver answered {sent.status_code}")
    if sent.state != "delivered":
        raise CommandFailed(f"the test was not delivered: {sent.error}")


@app.command()
def deliveries(
    hook_id: Hook, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List the last 50 deliveries of a webhook, newest first."""
    enter(_deliveries(connect(url, token, org), hook_id, as_json))


async def _deliveries(client: Client, hook_id: str, as_json: bool) -> None:
    async with client:
        found = await client.list_webhook_deliveries(hook_id)
    columns = ("DELIVERY", "EVENT", "TASK", "STATE", "ATTEMPTS", "STATUS", "NEXT ATTEMPT", "ERROR")
    Screen().listing(found, columns, _delivery, as_json=as_json)


def _delivery(each: WebhookDelivery) -> tuple[str, ...]:
    from perdure.domain.visible import exact

    status = "" if each.status_code is None else str(each.status_code)
    return (
        each.id,
        each.type,
        each.task_id or "",
        each.state,
        str(each.attempts),
        status,
        each.next_attempt_at or "",
        exact(each.error or ""),
    )
