"""The audit log, and the history of agents and harnesses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal, TypedDict, Unpack

from perdure.client.routes import Caller, new_key, path_of
from perdure.domain.audits import AuditEntry, AuditLog, Outcome
from perdure.domain.revisions import RestoreRevision, Revision, RevisionDiff, RevisionKind, RevisionList

_LOG = "/v1/orgs/{}/audit-logs"
_ENTITY = "/v1/history/{}"


class AuditFilters(TypedDict, total=False):
    """Conditions for entries of the audit log, which must match all of them.

    Attributes:
        action: only this action, such as `agent.updated`; a final `*` stands for any ending.
        domain: only actions on this kind of entity.
        actor_id: only what this user did.
        entity_type: only changes of this kind of entity.
        entity_id: only changes of this entity.
        session_id: only changes of this session and of what is in it.
        outcome: `done` or `denied`.
        since: only entries of this RFC 3339 time or later.
        until: only entries from before this time.
        before: only entries older than the one with this id.
        after: only entries newer than the one with this id.
    """

    action: str
    domain: str
    actor_id: str
    entity_type: str
    entity_id: str
    session_id: str
    outcome: Outcome
    since: str
    until: str
    before: str
    after: str


def _params(filters: AuditFilters, **more: str | int | None) -> list[tuple[str, str | int | None]]:
    given: dict[str, Any] = {**filters, **more}
    return list(given.items())


class AuditMethods(Caller):
    """The client's methods about the audit log and histories."""

    async def list_audit_logs(
        self, org_id: str, *, limit: int | None = None, **filters: Unpack[AuditFilters]
    ) -> AuditLog:
        """List a page of an organization's audit log, newest first; for admins.

        Args:
            org_id: the organization.
            limit: how many entries to return, 1 to 1000.
            filters: see `AuditFilters`.
        """
        params = _params(filters, limit=limit)
        return await self.call("GET", path_of(_LOG, org_id), AuditLog, params=params)

    async def iterate_audit_logs(
        self, org_id: str, **filters: Unpack[AuditFilters]
    ) -> AsyncIterator[AuditEntry]:
        """Iterate over all entries that match, newest first, page by page."""
        while True:
            page = await self.list_audit_logs(org_id, limit=500, **filters)
            for each in page.data:
                yield each
            if page.next_before is None:
                return
            filters["before"] = page.next_before

    async def export_audit_logs(
        self, org_id: str, form: Literal["ndjson", "csv"] = "ndjson", **filters: Unpack[AuditFilters]
    ) -> bytes:
        """Return all entries that match, newest first, as lines of JSON or as CSV."""
        params = _params(filters, format=form)
        return await self.transport.request("GET", path_of(_LOG, org_id), params=params)

    async def list_org_history(
        self,
        *,
        kind: RevisionKind | None = None,
        action: str | None = None,
        actor_user_id: str | None = None,
        since: str | None = None,
        before: str | None = None,
        limit: int | None = None,
    ) -> RevisionList:
        """List the revisions of all agents and harnesses, newest first."""
        params: list[tuple[str, str | int | None]] = [
            ("kind", kind),
            ("action", action),
            ("actor_user_id", actor_user_id),
            ("since", since),
            ("before", before),
            ("limit", limit),
        ]
        return await self.call("GET", "/v1/history", RevisionList, params=params)

    async def list_entity_history(
        self,
        ref: str,
        *,
        kind: RevisionKind | None = None,
        action: str | None = None,
        before: str | None = None,
        limit: int | None = None,
    ) -> RevisionList:
        """List the revisions of an agent or a harness, by its id or name, newest first.

        Args:
            ref: the id or name.
            kind: whether a name means an agent, which is the default, or a harness.
            action: only revisions that this action led to.
            before: only revisions older than the one with this id.
            limit: how many to return, 1 to 1000.
        """
        params: list[tuple[str, str | int | None]] = [
            ("kind", kind),
            ("action", action),
            ("before", before),
            ("limit", limit),
        ]
        return await self.call("GET", path_of(_ENTITY, ref), RevisionList, params=params)

    async def show_entity_revision(
        self, ref: str, revision: int, *, kind: RevisionKind | None = None
    ) -> Revision:
        """Return a revision with all its fields."""
        path = path_of(f"{_ENTITY}/revisions/{{}}", ref, str(revision))
        return await self.call("GET", path, Revision, params=[("kind", kind)])

    async def diff_entity_revisions(
        self, ref: str, first: int, second: int | None = None, *, kind: RevisionKind | None = None
    ) -> RevisionDiff:
        """Compare two revisions.

        Args:
            ref: the id or name of the agent or harness.
            first: the revision that the diff starts from.
            second: the revision that it leads to; None for the newest.
            kind: whether a name means an agent, which is the default, or a harness.
        """
        params = [("from", first), ("to", second), ("kind", kind)]
        return await self.call("GET", path_of(f"{_ENTITY}/diff", ref), RevisionDiff, params=params)

    async def restore_entity_revision(
        self,
        ref: str,
        revision: int,
        *,
        expected_revision: int | None = None,
        fields: tuple[str, ...] | None = None,
        kind: RevisionKind | None = None,
        reason: str | None = None,
    ) -> Revision:
        """Give an agent or a harness the state of a revision, which makes another one; return the newest.

        Args:
            ref: the id or name of the agent or harness.
            revision: the revision to restore.
            expected_revision: the newest revision that you know; `Conflict` if there is a newer one.
            fields: the only fields to restore; None for all.
            kind: whether a name means an agent, which is the default, or a harness.
            reason: why, for the audit log.
        """
        body = RestoreRevision(revision, expected_revision, fields, kind)
        path = path_of(f"{_ENTITY}/restore", ref)
        return await self.call("POST", path, Revision, body=body, once=new_key(), reason=reason)
