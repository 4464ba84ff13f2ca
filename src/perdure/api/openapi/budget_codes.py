"""The error codes of budgets, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

INVALID_BUDGETS = (
    (
        "invalid_amount",
        "An amount of money, of tokens or a price is negative, too large, or part of a token.",
        "Use an amount in the bounds that the message names.",
    ),
    (
        "invalid_period",
        "The window of a period is too short or too long, or its time zone is unknown.",
        "Use a window from a minute to 366 days, and an IANA time zone such as Europe/Berlin.",
    ),
    (
        "soft_limit_above_limit",
        "The soft limit of a budget is above its limit, so it would stop turns before it warns.",
        "Lower `soft_limit`, or raise `limit` in the same request.",
    ),
    (
        "unsupported_budget_subject",
        "Budgets of apps and app channels do not exist on this server.",
        "Use the subject type `session`, `agent`, `user` or `organization`.",
    ),
)
BUDGET_CONFLICTS = (
    ("too_many_budgets", "The subject has 10 budgets, or the organization 10,000.", "Delete one."),
)
MISSING_BUDGETS = (
    ("budget_not_found", "There is no such budget, or you may not see it.", "See `GET /v1/budgets`."),
)
BUDGETS = (
    (
        "budget_exhausted",
        "A budget has no money for the next model call. The turn waits, and the session is `paused`.",
        "Raise the limit of the budget, top it up, or wait for its next period: the turn then goes on.",
    ),
    (
        "budget_paused",
        "A person has paused a budget of the session. The turn waits, and the session is `paused`.",
        "Set the status of the budget to `active`: the turn then goes on.",
    ),
    (
        "budget_reserved",
        "Model calls that are under way hold the rest of a budget. The turn waits for them.",
        "Wait: it tries again by itself.",
    ),
    (
        "model_price_unknown",
        "A budget in US dollars does not permit the model, because its price is not known.",
        "Set `unpriced` of the budget, or use a model with a known price or a budget in tokens.",
    ),
)
"""Codes of turns: in `turn.parked`, in checks of budgets, and, the last one, in `turn.failed`."""
