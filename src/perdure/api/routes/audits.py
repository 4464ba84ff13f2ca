"""Routes of the audit log."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call, Chunked
from perdure.api.kernel.route import route
from perdure.app import audits as use
from perdure.domain.audits import AuditFilter, AuditLog, Outcome
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import OrgId, check_id, id_schema
from perdure.domain.times import Micros, Timestamp, from_rfc3339

_Word = Annotated[str, Meta(min_length=1, max_length=100)]

_Entry = Annotated[str, id_schema("audit")]


class FilterAuditLog(Struct, frozen=True):
    """Query parameters of the audit log."""

    action: Annotated[
        _Word | None,
        Meta(
            description="Return only this action, such as `agent.updated`. A final `*` stands for any ending."
        ),
    ] = None
    event_type: Annotated[_Word | None, Meta(description="The same as `action`.")] = None
    domain: Annotated[
        _Word | None,
        Meta(description="Return only actions on this kind of entity: what an action has before its dot."),
    ] = None
    actor_id: Annotated[
        Annotated[str, id_schema("user")] | None, Meta(description="Return only what this user did.")
    ] = None
    entity_type: Annotated[_Word | None, Meta(description="Return only changes of this kind of entity.")] = (
        None
    )
    entity_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=1200)] | None,
        Meta(description="Return only changes of the entity with this id."),
    ] = None
    session_id: Annotated[
        Annotated[str, id_schema("session")] | None,
        Meta(description="Return only changes of this session and of what is in it."),
    ] = None
    outcome: Annotated[Outcome | None, Meta(description="Return only entries with this outcome.")] = None
    since: Annotated[Timestamp | None, Meta(description="Return only entries of then or later.")] = None
    until: Annotated[Timestamp | None, Meta(description="Return only entries from before.")] = None
    before: Annotated[
        Annotated[str, id_schema("audit")] | None,
        Meta(description="Return only entries older than this one."),
    ] = None
    after: Annotated[
        Annotated[str, id_schema("audit")] | None,
        Meta(description="Return only entries newer than this one."),
    ] = None
    limit: Annotated[int, Meta(description="The maximum number of entries to return.", ge=1, le=1000)] = 100
    format: Annotated[
        Literal["json", "ndjson", "csv"] | None,
        Meta(
            description=(
                "`ndjson` and `csv` export all entries that match, whatever the limit. Default: what `Accept`"
                " names, `application/x-ndjson` or `text/csv`; else `json`, one page."
            )
        ),
    ] = None

    def filters(self) -> AuditFilter:
        """The filter. Raises InvalidInput."""
        if self.action is not None and self.event_type not in (None, self.action):
            raise InvalidInput("set either `action` or `event_type`, not both", field="event_type")
        return AuditFilter(
            action=self.action or self.event_type,
            domain=self.domain,
            actor_id=None if self.actor_id is None else check_id(self.actor_id, "user", "actor_id"),
            entity_type=self.entity_type,
            entity_id=self.entity_id,
            session_id=None
            if self.session_id is None
            else check_id(self.session_id, "session", "session_id"),
            outcome=self.outcome,
            before=None if self.before is None else check_id(self.before, "audit", "before"),
            after=None if self.after is None else check_id(self.after, "audit", "after"),
            since=instant(self.since, "since"),
            until=instant(self.until, "until"),
        )


def instant(text: str | None, field: str) -> Micros | None:
    """Read a time of a query. Raises InvalidInput."""
    if text is None:
        return None
    try:
        return from_rfc3339(text)
    except ValueError:
        raise InvalidInput(
            f"`{field}` must be an RFC 3339 time with an offset, such as 2026-03-14T09:26:53Z", field=field
        ) from None


_EXPORTS: dict[str, tuple[use.ExportFormat, bytes]] = {
    "application/x-ndjson": ("ndjson", b"application/x-ndjson"),
    "text/csv": ("csv", b"text/csv; charset=utf-8"),
}


@route("GET", "/v1/orgs/{org}/audit-logs", "audit", errors=(403, 404))
async def list_audit_logs(call: Call, org: OrgId, query: FilterAuditLog) -> AuditLog | Chunked[bytes]:
    """List the audit log.

    Who changed what, when, from where, and what was there before and after, newest first. Nobody can change
    an entry. Requires the role `admin`. `format` or `Accept` makes it an export of all entries that match.
    """
    filters = query.filters()
    accepted = (call.header(b"accept") or "").partition(",")[0].partition(";")[0].strip().lower()
    named = (each for each in _EXPORTS.values() if each[0] == query.format)
    export = _EXPORTS.get(accepted) if query.format is None else next(named, None)
    if export is None:
        return await use.page_of_audit_log(call.app, call.caller, org, filters, query.limit)
    form, kind = export
    return Chunked(
        use.export_audit_log(call.app, call.caller, org, filters, form),
        content_type=kind,
        headers=((b"content-disposition", f'attachment; filename="audit-log.{form}"'.encode()),),
    )


ROUTES = (list_audit_logs,)
