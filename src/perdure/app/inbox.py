"""The inbox: what the sessions of an organization wait for that a person decides."""

from __future__ import annotations

from perdure.app.context import App
from perdure.domain.inbox import DecideItem, Decider, InboxItem


async def decide_item(app: App, decider: Decider, item_id: str, body: DecideItem) -> InboxItem:
    """Decide on an item, and return it with the decision as its outcome.

    Raises:
        InvalidInput: the id is malformed; the edited arguments do not fit the tool's schema.
        NotFound: the organization has no such item.
        Forbidden: the decider may not decide.
        Conflict: somebody has decided already, or the item is no approval.
        Gone: it expired or was withdrawn.
    """
    raise NotImplementedError
