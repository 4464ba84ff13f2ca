"""The organization that a task works for: what many of its requests share must leave room for the others'."""

from __future__ import annotations

from contextvars import ContextVar

from perdure.domain.ids import OrgId

_CURRENT: ContextVar[OrgId | None] = ContextVar("working_for", default=None)


SOMEBODY = OrgId("")
"""Stands for the organization of a request whose caller is not known yet."""


def work_for(org_id: OrgId | None) -> None:
    """Have this task, and the tasks that it starts from now on, work for an organization; None for nobody."""
    _CURRENT.set(org_id)


def working_for() -> OrgId | None:
    """The organization that this task answers a request of, or SOMEBODY; None for all other work."""
    return _CURRENT.get()
