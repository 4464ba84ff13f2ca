"""Who may see what concerns all organizations."""

from __future__ import annotations

from perdure.domain.accounts import Caller, require
from perdure.domain.errors import Forbidden
from perdure.store.accounts import first_organization
from perdure.store.database import Tx


async def require_operator(tx: Tx, caller: Caller) -> None:
    """Require that the caller administers the first organization.

    Raises:
        Forbidden: `operators_only` or `role_required`.
    """
    first = await first_organization(tx)
    if first is None or first.id != caller.organization_id:
        raise Forbidden(
            "this is about all organizations: it is for administrators of the first one",
            code="operators_only",
        )
    require(caller, "admin")
