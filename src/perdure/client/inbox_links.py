"""Links by which people decide items of the inbox without a login."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.client import routes
from perdure.client.routes import Caller, path_of
from perdure.domain.inbox_links import (
    CreateLink,
    DecideByLink,
    InboxLink,
    LinkChoice,
    LinkDecision,
    LinkedItem,
)


class InboxLinkMethods(Caller):
    """The client's methods about links. `link` is a link's URL, or the token at its end."""

    create_inbox_link = routes.creates_under(
        "/v1/inbox/{}/links", CreateLink, InboxLink, "Create a link that decides an item.", once=False
    )

    async def read_link(self, link: str) -> LinkedItem:
        """Return the item of a link. Decides nothing; needs no credentials.

        Raises:
            ApiError: the link does not work, or not any more (`link_gone`).
        """
        return await self.call("GET", _place(link), LinkedItem)

    async def decide_by_link(
        self, link: str, decision: LinkChoice, shown: str, reason: str | None = None
    ) -> LinkDecision:
        """Decide on the item of a link, once. Needs no credentials.

        Args:
            link: the link.
            decision: `allow` or `reject`.
            shown: the digest from `read_link`: what the person has seen.
            reason: why, for the model.

        Raises:
            ApiError: the link does not work, or not any more (`link_gone`).
            Conflict: it shows something else by now (`shown_differs`).
        """
        return await self.call(
            "POST", _place(link), LinkDecision, body=DecideByLink(shown, decision, reason=reason)
        )

    async def answer_by_link(self, link: str, answers: Mapping[str, str | None], shown: str) -> LinkDecision:
        """Answer the questions of a link, once. Needs no credentials.

        Args:
            link: the link.
            answers: as for `answer_inbox_item`.
            shown: the digest from `read_link`: what the person has seen.

        Raises:
            ApiError: an answer does not fit (`invalid_answer`), or the link does not work any more.
        """
        body = DecideByLink(shown, answers=dict(answers))
        return await self.call("POST", _place(link), LinkDecision, body=body)


def _place(link: str) -> str:
    return path_of("/v1/links/{}", link.rstrip("/").rpartition("/")[2])
