"""Budgets as clients see them: amounts are US dollars, or tokens. `spending` has what model calls see."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.budget_periods import (
    LEAST_SECONDS,
    MOST_SECONDS,
    BudgetPeriod,
    CalendarPeriod,
    RollingPeriod,
    window_seconds,
)
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import BudgetId, OrgId, SessionId
from perdure.domain.messages import JsonObject
from perdure.domain.model_profiles import ModelCost
from perdure.domain.money import NANOS, to_nanos
from perdure.domain.schedules import zone_of
from perdure.domain.sessions import Status
from perdure.domain.spending import BudgetStatus, Currency
from perdure.domain.times import CreatedAt, Timestamp, UpdatedAt

MAX_BUDGETS, MAX_OF_SUBJECT = 10_000, 10
"""The most budgets of an organization, and of one subject."""
MAX_METADATA = 16_000
"""Characters of the JSON of a budget's metadata."""
MAX_USD, MAX_TOKENS = 1_000_000_000, 10**15
"""The largest amounts."""
MAX_PRICE = 1_000_000
"""The largest price of a million tokens, in US dollars."""
MAX_TIERS = 10

SubjectType = Literal["session", "agent", "user", "organization", "app", "app_channel"]
SUBJECTS: tuple[SubjectType, ...] = ("session", "agent", "user", "organization")
"""What a budget can be of. The contract's others do not exist here."""
ShownStatus = Literal["active", "paused", "exhausted", "disabled"]

_SUBJECT_TYPE = Meta(
    description=(
        "What spends it: a `session` with its sub-agents and everything below it, an `agent`, a `user` (the "
        "owner of the sessions) or the whole `organization`. `app` and `app_channel` are refused: this "
        "server has none."
    ),
    examples=["agent"],
)
_SUBJECT_ID = Meta(
    description="The id of the session, agent, user or organization.",
    examples=["agent_0195f0c2a4b87c3d9e1f001122334455"],
)
_CURRENCY = Meta(
    description="What is counted: `usd`, or `tokens` (of prompts and answers).", examples=["usd"]
)
_LIMIT = Meta(
    description=(
        f"What may be spent in a period: up to {MAX_USD:,} US dollars, or {MAX_TOKENS:,} tokens. With 0, no "
        "model is called."
    ),
    examples=[25.0],
)
_SOFT_LIMIT = Meta(
    description="The amount of spending of which the budget warns, once in a period: at most the limit.",
    examples=[20.0],
)
_PERIOD = Meta(
    description="When the budget has money again. Without one, its limit is for ever.",
    examples=[{"type": "calendar", "unit": "month", "time_zone": "Europe/Berlin"}],
)
_UNPRICED = Meta(
    description=(
        "The prices at which models without known prices may be called, for budgets in US dollars. Without "
        "it, turns with such models fail with `model_price_unknown`."
    )
)
_METADATA = Meta(description=f"An object of your own, of up to {MAX_METADATA:,} characters.")
_STATUS = Meta(
    description="`paused`: no model is called; `disabled`: it is not enforced, and nothing is charged to it."
)


class CreateBudget(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/budgets`."""

    subject_type: Annotated[SubjectType, _SUBJECT_TYPE]
    subject_id: Annotated[Annotated[str, Meta(max_length=100)], _SUBJECT_ID]
    currency: Annotated[Currency, _CURRENCY]
    limit: Annotated[float, _LIMIT]
    soft_limit: Annotated[float | None, _SOFT_LIMIT] = None
    period: Annotated[BudgetPeriod | None, _PERIOD] = None
    unpriced: Annotated[ModelCost | None, _UNPRICED] = None
    metadata: Annotated[JsonObject | None, _METADATA] = None


class UpdateBudget(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/budgets/{budget_id}`: omitted fields keep their values."""

    limit: Annotated[
        float | None, Meta(description="The new limit. It applies to the next model call. Null keeps it.")
    ] = None
    soft_limit: Annotated[
        float | None | UnsetType, Meta(description="The new soft limit. Null removes it.")
    ] = UNSET
    status: Annotated[
        BudgetStatus | None, Meta(description=f"The new status. {_STATUS.description} Null keeps it.")
    ] = None
    unpriced: Annotated[
        ModelCost | None | UnsetType,
        Meta(description="The new prices for models without known prices. Null removes them."),
    ] = UNSET
    metadata: Annotated[
        JsonObject | None | UnsetType, Meta(description="The new metadata. Null removes it.")
    ] = UNSET


class TopUpBudget(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/budgets/{budget_id}/top-up`."""

    amount: Annotated[
        float, Meta(description="How much more may be spent in this period. Above 0.", examples=[10.0])
    ]
    description: Annotated[
        Annotated[str, Meta(max_length=500)] | None,
        Meta(description="Why, for the ledger.", examples=["The launch is tomorrow."]),
    ] = None


class Budget(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A limit on what model calls may cost."""

    id: Annotated[BudgetId, Meta(description="The budget's id.")]
    organization_id: Annotated[OrgId, Meta(description="The organization.")]
    subject_type: Annotated[SubjectType, _SUBJECT_TYPE]
    subject_id: Annotated[str, _SUBJECT_ID]
    currency: Annotated[Currency, _CURRENCY]
    limit: Annotated[float, _LIMIT]
    balance: Annotated[
        float,
        Meta(
            description=(
                "What is left in this period: `limit` and `topped_up` without `spent`. Model calls that are "
                "under way hold `reserved` of it. It can be a little below 0: estimates of prompts err."
            ),
            examples=[12.5],
        ),
    ]
    status: Annotated[
        ShownStatus,
        Meta(
            description=f"{_STATUS.description} `exhausted`: it is active, and nothing is left.",
            examples=["active"],
        ),
    ]
    created_at: CreatedAt
    updated_at: UpdatedAt
    spent: Annotated[
        float, Meta(description="What was spent in this period: by calls that have ended.", examples=[12.5])
    ]
    reserved: Annotated[float, Meta(description="What model calls that are under way hold.", examples=[0.0])]
    topped_up: Annotated[float, Meta(description="What was topped up in this period.", examples=[0.0])]
    soft_limit: Annotated[float | None, _SOFT_LIMIT] = None
    period: Annotated[BudgetPeriod | None, _PERIOD] = None
    period_started_at: Annotated[
        Timestamp | None,
        Meta(description="When this period began. Of a rolling one: the newest part of its window."),
    ] = None
    next_period_at: Annotated[
        Timestamp | None,
        Meta(description="When the next period begins, and turns that wait for the budget go on."),
    ] = None
    unpriced: Annotated[ModelCost | None, _UNPRICED] = None
    metadata: Annotated[JsonObject | None, _METADATA] = None


class LedgerEntry(Struct, frozen=True, omit_defaults=True):
    """What was charged to a budget, or credited. Entries are never changed."""

    id: Annotated[
        str, Meta(description="The entry's id.", examples=["entry_0195f0c2a4b87c3d9e1f001122334455"])
    ]
    budget_id: Annotated[BudgetId, Meta(description="The budget.")]
    amount: Annotated[
        float,
        Meta(
            description="The amount, in the budget's currency. That of a top-up is negative.",
            examples=[0.0125],
        ),
    ]
    meter_source: Annotated[
        str,
        Meta(
            description=(
                "`model`: a model call; `lost_call`: what a call held whose server died; `top_up`: a credit."
            ),
            examples=["model"],
        ),
    ]
    created_at: CreatedAt
    session_id: Annotated[SessionId | None, Meta(description="The session whose call it was.")] = None
    ref_type: Annotated[
        str | None,
        Meta(description="What `ref_id` is: a `model_call`, or the `user` of a top-up."),
    ] = None
    ref_id: Annotated[str | None, Meta(description="The call, or the user.")] = None
    description: Annotated[str | None, Meta(description="What a top-up was for.")] = None


CheckAction = Literal["allow", "warn", "pause"]


class BudgetCheckResult(Struct, frozen=True, omit_defaults=True):
    """Whether a model could be called now, as budgets see it. Without a budget, only `action` is set."""

    action: Annotated[
        CheckAction,
        Meta(
            description=(
                "`allow`: there is money; `warn`: a soft limit is reached; `pause`: there is none, or the "
                "budget is paused."
            ),
            examples=["allow"],
        ),
    ]
    balance: Annotated[float | None, Meta(description="What is left of the budget.")] = None
    budget_id: Annotated[
        BudgetId | None, Meta(description="The budget that decides: the strictest of several.")
    ] = None
    currency: Annotated[Currency | None, Meta(description="Its currency.")] = None
    error_code: Annotated[
        str | None,
        Meta(description="With `pause`: `budget_exhausted` or `budget_paused`."),
    ] = None
    error_fields: Annotated[
        JsonObject | None,
        Meta(description="With `pause`: `budget_id`, `balance`, `limit`, `currency` and `needed`, if known."),
    ] = None
    message: Annotated[str | None, Meta(description="What to do about it, for people.")] = None


class ResumedSession(BudgetCheckResult, frozen=True, omit_defaults=True, kw_only=True):
    """What became of the wish that a session goes on: whether it does, and what its budgets say."""

    session_id: Annotated[SessionId, Meta(description="The session.")]
    resumed: Annotated[bool, Meta(description="Whether its turn goes on now.", examples=[True])]
    status: Annotated[Status, Meta(description="The session's status.", examples=["active"])]


SubjectIdText = Annotated[str, Meta(max_length=100)]


def to_amount(currency: Currency, amount: float, field: str, *, least: float = 0.0) -> int:
    """Convert an amount to billionths of a US dollar, or to tokens.

    Args:
        field: the field's name, for the error.
        least: the least that it may be; 0 is also refused if it is above 0.

    Raises:
        InvalidInput: it is negative, too large or no number, or part of a token.
    """
    most = MAX_USD if currency == "usd" else MAX_TOKENS
    if not math.isfinite(amount) or not least <= amount <= most:
        raise InvalidInput(
            f"`{field}` must be between {least:.9g} and {most:,}, not {amount:.9g}",
            code="invalid_amount",
            field=field,
        )
    if currency == "usd":
        return to_nanos(amount)
    if amount != int(amount):
        raise InvalidInput(
            f"`{field}` must be a whole number of tokens, not {amount:.9g}",
            code="invalid_amount",
            field=field,
        )
    return int(amount)


def most_of(currency: Currency) -> int:
    """The most that a budget's limit and top-ups may be together."""
    return MAX_USD * NANOS if currency == "usd" else MAX_TOKENS


def check_soft_limit(limit: int, soft_limit: int | None) -> None:
    """Check that the soft limit is not above the limit. Raises InvalidInput."""
    if soft_limit is not None and soft_limit > limit:
        raise InvalidInput(
            "`soft_limit` must not be above `limit`: the budget would stop turns before it warns",
            code="soft_limit_above_limit",
            field="soft_limit",
        )


def check_period(period: BudgetPeriod) -> None:
    """Check what the types of a period's fields do not. Raises InvalidInput."""
    if isinstance(period, RollingPeriod) and not LEAST_SECONDS <= window_seconds(period) <= MOST_SECONDS:
        raise InvalidInput(
            f"`period.window` must be between a minute and 366 days, not {period.window}",
            code="invalid_period",
            field="period.window",
        )
    if isinstance(period, CalendarPeriod):
        try:
            zone_of(period.time_zone)
        except InvalidInput as error:
            raise InvalidInput(error.message, code="invalid_period", field="period.time_zone") from None


def check_prices(currency: Currency, price: ModelCost) -> None:
    """Check the prices for models without known prices. Raises InvalidInput."""
    if currency != "usd":
        raise InvalidInput(
            "`unpriced` is for budgets in US dollars: tokens are counted at any price", field="unpriced"
        )
    if len(price.cost_tiers) > MAX_TIERS:
        raise InvalidInput(f"`unpriced` has more than {MAX_TIERS} tiers", field="unpriced.cost_tiers")
    for each in (price, *price.cost_tiers):
        for name in ("input", "output", "cache_read", "cache_write"):
            amount = getattr(each, name)
            if amount is not None and (not math.isfinite(amount) or not 0 <= amount <= MAX_PRICE):
                raise InvalidInput(
                    f"prices in `unpriced` must be between 0 and {MAX_PRICE:,} US dollars, not {amount:.9g}",
                    code="invalid_amount",
                    field=f"unpriced.{name}",
                )
