"""`perdure spend`: what was spent on model calls, with bars."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, Json, Org, Token, Url, connect, enter
from perdure.cli.saving import check_new, saved_to
from perdure.cli.terminal import Part, Screen
from perdure.cli.texts import several
from perdure.domain.spend import SpendKey

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.client.spend import CallFilters
    from perdure.domain.spend import SpendGroup, SpendReport, SpendSum

BAR = 24
"""Characters of the longest bar."""


def spend(
    by: Annotated[SpendKey, typer.Option(help="What the calls of a line share.")] = "model",
    days: Annotated[int, typer.Option(help="How many days, up to now.", min=1, max=3660)] = 30,
    session: Annotated[
        str | None, typer.Option(help="Only this session and all below it.", show_default=False)
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Only this agent's id.", show_default=False)] = None,
    user: Annotated[str | None, typer.Option(help="Only this user's id.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(help="How many lines to show.", min=1, max=1000)] = 20,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="Write all calls to this file as CSV; `-` for standard output.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --csv.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Show what was spent on model calls, by model, day, session, agent or user.

    Calls of deleted sessions are included. Members see their own sessions, admins those of everybody.
    """
    if csv is None and force:
        raise typer.BadParameter("only a file has it: add --csv FILE", param_hint="--force")
    if csv is not None:
        if as_json:
            raise typer.BadParameter("a file of --csv is no JSON: omit one of them", param_hint="--json")
        check_new(csv, force=force)
    filters: CallFilters = {"from_ts": _days_ago(days)}
    if session is not None:
        filters["root_session_id"] = session
    if agent is not None:
        filters["agent_id"] = agent
    if user is not None:
        filters["user_id"] = user
    if model is not None:
        filters["model"] = model
    client = connect(url, token, org)
    enter(_export(client, filters, csv) if csv is not None else _show(client, by, filters, limit, as_json))


def _days_ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


async def _export(client: Client, filters: CallFilters, path: Path) -> None:
    async with client:
        content = await client.export_model_calls(**filters)
    if str(path) == "-":
        Screen().content(content)
    else:
        with saved_to(path, private=True) as target:
            await asyncio.to_thread(target.write_bytes, content)
        lines = content.count(b"\n") - 1  # without the names of the columns
        Screen().line(f"{several(lines, 'call')}: {path}")


async def _show(client: Client, by: SpendKey, filters: CallFilters, limit: int, as_json: bool) -> None:
    async with client:
        report = await client.get_spend(by, limit=limit, **filters)
    screen = Screen()
    if as_json:
        screen.json(report)
        return
    if not report.groups:
        screen.line("No model calls in this time.")
        return
    screen.table((by.replace("_", " "), "cost", "", "calls", "input", "output", "cached"), _rows(report))


def _rows(report: SpendReport) -> list[tuple[Part, ...]]:
    in_money = any(group.cost_usd for group in report.groups)
    most = max(_size(group, in_money=in_money) for group in report.groups) or 1
    rows: list[tuple[Part, ...]] = []
    for group in report.groups:
        bar = "█" * round(_size(group, in_money=in_money) / most * BAR)
        rows.append(
            (group.key or "-", _cost(group.cost_usd, group.unpriced_calls), (bar, "cyan"), *_counts(group))
        )
    total = report.total
    rows.append(
        (("total", "bold"), (_cost(total.cost_usd, total.unpriced_calls), "bold"), "", *_counts(total))
    )
    return rows


def _size(group: SpendGroup, *, in_money: bool) -> float:
    """What a bar stands for: the cost, or the tokens if no price is known."""
    return group.cost_usd if in_money else group.input_tokens + group.output_tokens


def _cost(usd: float, unpriced: int) -> str:
    text = f"${usd:,.4f}" if 0 < usd < 1 else f"${usd:,.2f}"
    return f"{text} + {unpriced} unpriced" if unpriced else text


def _counts(group: SpendSum) -> tuple[str, ...]:
    counts = group.calls, group.input_tokens, group.output_tokens, group.cache_read_tokens
    return tuple(f"{count:,}" for count in counts)
