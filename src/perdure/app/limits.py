"""Limits of organizations and users: reading and changing them, and the one of open sessions."""

from __future__ import annotations

from msgspec import UNSET

from perdure.app.accounts import own_organization
from perdure.app.context import App, Services
from perdure.app.session_room import sessions_of
from perdure.domain.accounts import Caller, require
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import OrgId, UserId
from perdure.domain.limits import (
    LIMIT_NAMES,
    ChangeLimits,
    Limits,
    LimitsPair,
    LimitUse,
    LimitUses,
    LimitValues,
    UpdateLimits,
)
from perdure.domain.parked import LimitScope
from perdure.store.database import Tx
from perdure.store.limits import as_changes, limits_of, set_limits
from perdure.store.turn_slots import OrgTurns, turn_counts


async def read_limits(app: App, caller: Caller, org_id: OrgId) -> Limits:
    """Return the limits of one of the caller's organizations, and what is used of them. Raises NotFound."""

    async def work(tx: Tx) -> Limits:
        row, _ = await own_organization(tx, caller, org_id)
        return await _limits(app, tx, row.id, caller.user_id)

    return await app.database.read(work)


async def change_limits(app: App, caller: Caller, org_id: OrgId, body: UpdateLimits) -> Limits:
    """Change the limits that the body contains; admins only.

    Raises:
        InvalidInput: `limit_too_high`: a value is above the server's.
        Forbidden, NotFound.
    """
    now, most = app.now(), app.meter.most
    parts: list[tuple[LimitScope, ChangeLimits]] = []
    if body.organization is not UNSET:
        parts.append(("organization", body.organization))
    if body.user is not UNSET:
        parts.append(("user", body.user))
    for scope, part in parts:
        _check(scope, part, most.organization)

    async def work(tx: Tx) -> tuple[LimitsPair, Limits]:
        row, role = await own_organization(tx, caller, org_id)
        require(Caller(row.id, caller.user_id, role), "admin")
        for scope, part in parts:
            await set_limits(tx, row.id, scope, as_changes(part), now)
        return await limits_of(tx, row.id), await _limits(app, tx, row.id, caller.user_id)

    pair, limits = await app.database.write(work)
    app.meter.learn(org_id, {"organization": pair.organization, "user": pair.user})
    app.meter.released.set()
    return limits


def _check(scope: LimitScope, part: ChangeLimits, most: LimitValues) -> None:
    for name in LIMIT_NAMES:
        value, highest = getattr(part, name), getattr(most, name)
        if isinstance(value, int) and highest is not None and value > highest:
            raise InvalidInput(
                f"`{scope}.{name}` must be at most {highest}, the server's limit, not {value}",
                code="limit_too_high",
                field=f"{scope}.{name}",
            )


async def _limits(app: App, tx: Tx, org_id: OrgId, user_id: UserId) -> Limits:
    own = await limits_of(tx, org_id)
    holds = own.within(app.meter.most)
    turns = (await turn_counts(tx, org_id)).get(org_id) or OrgTurns()
    of_user = turns.of(user_id)
    return Limits(
        await _uses(app, tx, org_id, None, holds.organization, turns.active),
        await _uses(app, tx, org_id, user_id, holds.user, of_user.active),
        turns.waiting,
        own.organization,
        own.user,
    )


async def _uses(
    app: Services, tx: Tx, org_id: OrgId, user_id: UserId | None, most: LimitValues, active: int
) -> LimitUses:
    now = app.now()
    return LimitUses(
        LimitUse(most.active_turns, active),
        LimitUse(most.open_sessions, await sessions_of(tx, org_id, user_id)),
        LimitUse(most.requests_per_minute, app.meter.used("requests", org_id, user_id, now)),
        LimitUse(most.tokens_per_minute, app.meter.used("tokens", org_id, user_id, now)),
    )
