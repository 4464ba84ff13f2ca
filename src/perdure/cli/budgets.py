"""`perdure budgets ...`: limits on what model calls may cost."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.budget_periods import BudgetPeriod
    from perdure.domain.budgets import Budget, LedgerEntry, SubjectType
    from perdure.domain.model_profiles import ModelCost

app = typer.Typer(help="Limit what model calls may cost.", no_args_is_help=True)

BAR = 20
"""Characters of a bar."""
_UNITS = ("hour", "day", "week", "month", "year")

BudgetId = Annotated[str, typer.Argument(help="The budget's id, from the list.", show_default=False)]


class _Currency(StrEnum):
    usd = "usd"
    tokens = "tokens"


class _Status(StrEnum):
    active = "active"
    paused = "paused"
    disabled = "disabled"


SoftLimit = Annotated[
    float | None,
    typer.Option("--soft-limit", help="The amount of which the budget warns.", show_default=False),
]
Unpriced = Annotated[
    str | None,
    typer.Option(
        "--unpriced",
        help="IN/OUT: prices of a million tokens, for models without known prices.",
        show_default=False,
    ),
]


@app.command("list")
def list_budgets(
    subject: Annotated[
        str | None,
        typer.Option(help="Only those of this session, agent, user or organization.", show_default=False),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List budgets, newest first, with bars of what is spent."""
    enter(_list(connect(url, token, org), subject, as_json))


async def _list(client: Client, subject: str | None, as_json: bool) -> None:
    from perdure.client.routes import every

    async with client:
        pages = every(
            lambda offset: client.list_budgets(subject_id=subject, offset=offset), lambda each: each.id
        )
        found = [each async for each in pages]
    columns = ("BUDGET", "STATUS", "SPENT", "LEFT", "OF", "NEXT PERIOD", "SUBJECT")
    Screen().listing(found, columns, _row, as_json=as_json)


def _row(budget: Budget) -> tuple[str, ...]:
    return (
        budget.id,
        budget.status,
        bar_of(budget),
        _amount(budget, budget.balance),
        _amount(budget, budget.limit + budget.topped_up),
        budget.next_period_at or "",
        budget.subject_id,
    )


def bar_of(budget: Budget) -> str:
    """The bar of a budget: what is spent, what calls hold, what is left."""
    whole = budget.limit + budget.topped_up
    share = 1.0 if whole <= 0 else min(budget.spent / whole, 1.0)
    held = 0.0 if whole <= 0 else min(budget.reserved / whole, 1.0 - share)
    full = round(BAR * share)
    half = min(BAR - full, round(BAR * held))
    return f"{'█' * full}{'▒' * half}{'░' * (BAR - full - half)} {share:4.0%}"


def _amount(budget: Budget, amount: float) -> str:
    from perdure.domain.money import to_nanos
    from perdure.domain.spending import shown

    return shown(budget.currency, to_nanos(amount) if budget.currency == "usd" else int(amount))


def _print(budget: Budget, as_json: bool) -> None:
    screen = Screen()
    if as_json:
        screen.json(budget)
        return
    period = budget.period
    rows = {
        "budget": budget.id,
        "subject": f"{budget.subject_type} {budget.subject_id}",
        "status": budget.status,
        "spent": f"{bar_of(budget)} {_amount(budget, budget.spent)}",
        "held": _amount(budget, budget.reserved) if budget.reserved else "",
        "left": f"{_amount(budget, budget.balance)} of {_amount(budget, budget.limit + budget.topped_up)}",
        "topped up": _amount(budget, budget.topped_up) if budget.topped_up else "",
        "warns at": "" if budget.soft_limit is None else _amount(budget, budget.soft_limit),
        "period": "" if period is None else _period_text(period),
        "next period": budget.next_period_at or "",
        "unpriced": "" if budget.unpriced is None else f"{budget.unpriced.input}/{budget.unpriced.output}",
    }
    for name, value in rows.items():
        if value:
            screen.line((f"{name:<13}", "dim"), value)


def _period_text(period: BudgetPeriod) -> str:
    from perdure.domain.budget_periods import CalendarPeriod, RollingPeriod

    if isinstance(period, CalendarPeriod):
        return f"each {period.unit} ({period.time_zone})"
    return f"the last {period.window}" if isinstance(period, RollingPeriod) else f"{period.seconds} seconds"


def period_of(text: str | None, time_zone: str | None) -> BudgetPeriod | None:
    """The period that the options name. Raises BadParameter."""
    from perdure.domain.budget_periods import CalendarPeriod, DurationPeriod, RollingPeriod

    if time_zone is not None and text not in _UNITS:
        raise typer.BadParameter("only periods of the calendar have one", param_hint="--time-zone")
    if text is None:
        return None
    for unit in _UNITS:
        if text == unit:
            return CalendarPeriod(unit, time_zone or "UTC")  # type: ignore[arg-type]
    if text.isdecimal():
        return DurationPeriod(int(text))
    if not text[:-1].isdecimal():
        known = f"{', '.join(_UNITS)}, a window such as 24h, or seconds"
        raise typer.BadParameter(f"{text!r} is none of {known}", param_hint="--period")
    return RollingPeriod(text)


def price_of(text: str | None) -> ModelCost | None:
    """The prices that the option names: of a million tokens in, and out. Raises BadParameter."""
    from perdure.domain.model_profiles import ModelCost

    if text is None:
        return None
    given, slash, answered = text.partition("/")
    try:
        if slash:
            return ModelCost(float(given), float(answered))
    except ValueError:
        pass
    raise typer.BadParameter(f"{text!r} is not IN/OUT, such as 3/15", param_hint="--unpriced")


@app.command()
def create(
    subject: Annotated[
        str,
        typer.Argument(
            help="The id of a session, an agent or a user; or `organization`: yours.", show_default=False
        ),
    ],
    limit: Annotated[float, typer.Argument(help="What may be spent in a period.", show_default=False)],
    currency: Annotated[_Currency, typer.Option(help="What is counted.")] = _Currency.usd,
    soft_limit: SoftLimit = None,
    period: Annotated[
        str | None,
        typer.Option(
            help="hour, day, week, month or year of the calendar; a window such as 24h; or seconds.",
            show_default="for ever",
        ),
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="The time zone of the calendar.", show_default="UTC")
    ] = None,
    unpriced: Unpriced = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Create a budget. It applies to the next model call."""
    when, price = period_of(period, time_zone), price_of(unpriced)
    enter(_create(connect(url, token, org), subject, limit, currency.value, soft_limit, when, price, as_json))


async def _create(
    client: Client,
    subject: str,
    limit: float,
    currency: str,
    soft_limit: float | None,
    period: BudgetPeriod | None,
    unpriced: ModelCost | None,
    as_json: bool,
) -> None:
    async with client:
        if subject == "organization":
            subject = (await client.identity()).organization_id
        made = await client.create_budget(
            _type_of(subject),
            subject,
            "tokens" if currency == "tokens" else "usd",
            limit,
            soft_limit,
            period,
            unpriced,
        )
    _print(made, as_json)


def _type_of(subject: str) -> SubjectType:
    """The type of a subject, which its id begins with. Raises BadParameter."""
    types: dict[str, SubjectType] = {
        "session": "session", "agent": "agent", "user": "user", "org": "organization"
    }  # fmt: skip
    found = types.get(subject.partition("_")[0])
    if found is None:
        raise CommandFailed(f"{subject!r} is not the id of a session, an agent, a user or an organization")
    return found


@app.command()
def show(
    budget_id: BudgetId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """Show a budget."""
    enter(_show(connect(url, token, org), budget_id, as_json))


async def _show(client: Client, budget_id: str, as_json: bool) -> None:
    async with client:
        budget = await client.get_budget(budget_id)
    _print(budget, as_json)


@app.command("set")
def change(
    budget_id: BudgetId,
    limit: Annotated[float | None, typer.Option(help="The new limit.", show_default=False)] = None,
    soft_limit: SoftLimit = None,
    no_soft_limit: Annotated[bool, typer.Option("--no-soft-limit", help="Warn of nothing.")] = False,
    status: Annotated[_Status | None, typer.Option(help="The new status.", show_default=False)] = None,
    unpriced: Unpriced = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Change a budget. Turns that wait for it go on if it has money then."""
    fields: dict[str, object] = {
        "limit": limit,
        "soft_limit": soft_limit,
        "status": None if status is None else status.value,
        "unpriced": price_of(unpriced),
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    if no_soft_limit:
        if soft_limit is not None:
            raise typer.BadParameter("pass --soft-limit or --no-soft-limit", param_hint="--no-soft-limit")
        fields["soft_limit"] = None
    enter(_change(connect(url, token, org), budget_id, fields, as_json))


async def _change(client: Client, budget_id: str, fields: dict[str, object], as_json: bool) -> None:
    import msgspec

    from perdure.domain.budgets import UpdateBudget

    given = msgspec.structs.asdict(UpdateBudget(**fields))  # type: ignore[arg-type]
    async with client:
        budget = await client.update_budget(budget_id, **given)
    _print(budget, as_json)


@app.command("top-up")
def top_up(
    budget_id: BudgetId,
    amount: Annotated[float, typer.Argument(help="How much more, in its currency.", show_default=False)],
    why: Annotated[str | None, typer.Option(help="Why, for the ledger.", show_default=False)] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Let more be spent in this period. Turns that wait for the budget go on."""
    enter(_top_up(connect(url, token, org), budget_id, amount, why, as_json))


async def _top_up(client: Client, budget_id: str, amount: float, why: str | None, as_json: bool) -> None:
    async with client:
        budget = await client.top_up_budget(budget_id, amount, why)
    _print(budget, as_json)


@app.command()
def delete(budget_id: BudgetId, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Delete a budget with its ledger. Turns that wait for it go on."""
    enter(_delete(connect(url, token, org), budget_id))


async def _delete(client: Client, budget_id: str) -> None:
    async with client:
        await client.delete_budget(budget_id)
    Screen().line(f"deleted {budget_id}")


@app.command()
def ledger(
    budget_id: BudgetId,
    limit: Annotated[int, typer.Option(help="How many entries.", min=1, max=1000)] = 50,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List what was charged to a budget and credited, newest first."""
    enter(_ledger(connect(url, token, org), budget_id, limit, as_json))


async def _ledger(client: Client, budget_id: str, limit: int, as_json: bool) -> None:
    async with client:
        budget = await client.get_budget(budget_id)
        page = await client.list_budget_ledger(budget_id, limit=limit)

    def row(entry: LedgerEntry) -> tuple[str, ...]:
        amount = _amount(budget, abs(entry.amount))
        signed = f"-{amount}" if entry.amount < 0 else amount
        about = entry.description or entry.session_id or entry.ref_id or ""
        return entry.created_at, signed, entry.meter_source, about

    Screen().listing(page.data, ("TIME", "AMOUNT", "SOURCE", "ABOUT"), row, as_json=as_json)


@app.command()
def check(
    subject: Annotated[str, typer.Argument(help="A budget's id, or a session's.", show_default=False)],
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Say whether a budget, or those of a session, have money now. The status is 1 if not."""
    enter(_check(connect(url, token, org), subject, as_json))


async def _check(client: Client, subject: str, as_json: bool) -> None:
    async with client:
        of_session = subject.startswith("session_")
        result = await (client.check_session_budgets if of_session else client.check_budget)(subject)
    if as_json:
        Screen().json(result)
    elif result.action != "pause":
        Screen().line(f"{result.action}: {result.message or 'there is money'}")
    if result.action == "pause":
        raise CommandFailed(result.message or "there is no money")
