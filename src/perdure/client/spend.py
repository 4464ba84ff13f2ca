"""What was spent on model calls."""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

from perdure.client.routes import Caller
from perdure.domain.spend import ModelCall, SpendKey, SpendReport


class CallFilters(TypedDict, total=False):
    """Conditions for model calls, which must match all of them.

    Attributes:
        from_ts: only calls that ended at this RFC 3339 time or later.
        to_ts: only calls that ended before this time.
        session_id: only calls of this session.
        root_session_id: only calls of this session, at the top of a tree, and of all below it.
        agent_id: only calls of this agent.
        user_id: only calls of this user's sessions.
        model: only calls of this model.
    """

    from_ts: str
    to_ts: str
    session_id: str
    root_session_id: str
    agent_id: str
    user_id: str
    model: str


def _params(filters: CallFilters, **more: str | int | None) -> list[tuple[str, str | int | None]]:
    given: dict[str, Any] = {**filters, **more}
    return list(given.items())


class SpendMethods(Caller):
    """The client's methods about the ledger."""

    async def get_spend(
        self, by: SpendKey = "model", *, limit: int | None = None, **filters: Unpack[CallFilters]
    ) -> SpendReport:
        """Sum up what was spent on model calls; by default in the last 30 days.

        Args:
            by: what the calls of a group share.
            limit: how many groups to return, 1 to 1000.
            filters: see `CallFilters`.
        """
        params = _params(filters, by=by, limit=limit)
        return await self.call("GET", "/v1/spend", SpendReport, params=params)

    async def list_model_calls(
        self, *, before: str | None = None, limit: int | None = None, **filters: Unpack[CallFilters]
    ) -> tuple[ModelCall, ...]:
        """List the rows of the ledger, newest first.

        Args:
            before: only calls before the one with this id.
            limit: how many to return, 1 to 1000.
            filters: see `CallFilters`.
        """
        params = _params(filters, before=before, limit=limit)
        return await self.call("GET", "/v1/spend/calls", tuple[ModelCall, ...], params=params)

    async def export_model_calls(self, **filters: Unpack[CallFilters]) -> bytes:
        """Return the rows of the ledger as CSV, newest first.

        Args:
            filters: see `CallFilters`.
        """
        return await self.transport.request("GET", "/v1/spend/export", params=_params(filters))
