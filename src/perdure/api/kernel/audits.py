"""Which operations leave an entry in the audit log, and why the others leave none.

Every operation that is no GET has a line here, and so has a GET that changes something.
"""

from __future__ import annotations

import re

from perdure.api.kernel.asgi import Headers
from perdure.api.kernel.call import Call
from perdure.api.kernel.route import Route
from perdure.app.audits import audited_app, note_denied
from perdure.app.context import App
from perdure.domain.audit_values import shown_name
from perdure.domain.audits import MAX_AGENT, MAX_REASON, REASON_HEADER, Origin, Verb
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import OrgId, SessionId, is_id
from perdure.domain.inbox import session_of_item
from perdure.domain.visible import visible_line
from perdure.domain.workspaces import session_of
from perdure.store import audit_tables as of
from perdure.store.audit_denied import Denied
from perdure.store.audit_tables import Audited

_LOG = "the session's own log says who did this and when"
_NOTHING = "it changes nothing that is kept"
_OWN = "it is how one user sees or rates things, and concerns nobody else"
_CHECKS = "it only keeps when something was last checked or tried"
_LATER = "it only makes a link; what is done with it is in the audit log or in the session's log"

OPERATIONS: dict[str, Audited | str] = {
    "create_session": Audited(of.SESSION),
    "fork_session": Audited(of.SESSION, "forked"),
    "update_session": Audited(of.SESSION),
    "archive_session": Audited(of.SESSION, "archived"),
    "unarchive_session": Audited(of.SESSION, "unarchived"),
    "delete_session": Audited(of.SESSION),
    "cancel_turn": _LOG,
    "pin_session": _OWN,
    "unpin_session": _OWN,
    "create_message": _LOG,
    "submit_tool_results": _LOG,
    "submit_tool_approvals": _LOG,
    "create_run": _LOG,
    "answer_callback": _LOG,
    "cancel_callback": _LOG,
    "answer_input_request": _LOG,
    "set_message_feedback": _LOG,
    "add_session_participant": _LOG,
    "leave_session_participant": _LOG,
    "post_mcp_prompt": _LOG,
    "cancel_task": _LOG,
    "post_task_message": _LOG,
    "resume_session_budgets": _LOG,
    "decide_inbox_item": _LOG,
    "decide_by_link": _LOG,
    "create_inbox_link": Audited(of.INBOX_LINK),
    "sign_in": _LATER,
    "sign_in_organization": _LATER,
    "begin_sign_in": _LATER,
    "finish_sign_in": Audited(of.CONNECTION, "signed_in"),
    "delete_connection": Audited(of.CONNECTION),
    "delete_organization_connection": Audited(of.CONNECTION),
    "create_agent": Audited(of.AGENT),
    "upsert_agent": Audited(of.AGENT),
    "import_agent": Audited(of.AGENT),
    "copy_agent": Audited(of.AGENT),
    "fork_agent_version": Audited(of.AGENT, "forked"),
    "update_agent": Audited(of.AGENT),
    "delete_agent": Audited(of.AGENT, "archived"),
    "set_default_agent_version": Audited(of.AGENT),
    "rollback_agent_version": Audited(of.AGENT, "rolled_back"),
    "create_agent_version": Audited(of.AGENT_VERSION),
    "analyze_agent": _NOTHING,
    "preview_agent": _NOTHING,
    "create_harness": Audited(of.HARNESS),
    "import_harness": Audited(of.HARNESS),
    "copy_harness": Audited(of.HARNESS),
    "update_harness": Audited(of.HARNESS),
    "delete_harness": Audited(of.HARNESS, "archived"),
    "preview_harness": _NOTHING,
    "dry_run_guardrails": _NOTHING,
    "ask_policy_hook": _NOTHING,
    "create_organization": Audited(of.ORGANIZATION),
    "update_organization": Audited(of.ORGANIZATION),
    "complete_org_onboarding": Audited(of.ORGANIZATION),
    "update_limits": Audited(of.LIMITS, "updated"),
    "update_retention": Audited(of.RETENTION, "updated"),
    "preview_retention": _NOTHING,
    "create_erasure": Audited(of.ERASURE, "begun", only=("created",)),
    "hold_session": Audited(of.SESSION, "held"),
    "release_session": Audited(of.SESSION, "released"),
    "add_user": Audited(of.MEMBER, "added"),
    "update_user": Audited(of.MEMBER),
    "remove_user": Audited(of.MEMBER, "removed"),
    "update_profile": Audited(of.USER),
    "delete_account": Audited(of.MEMBER, "removed"),
    "switch_org": _NOTHING,
    "create_token": Audited(of.TOKEN, only=("created",)),
    "create_user_token": Audited(of.TOKEN, only=("created",)),
    "revoke_token": Audited(of.TOKEN, "revoked"),
    "create_invitation": Audited(of.INVITATION, only=("created",)),
    "withdraw_invitation": Audited(of.INVITATION, "withdrawn"),
    "accept_invitation": Audited(of.MEMBER, "joined"),
    "batch_set_secrets": Audited(of.SECRET),
    "create_session_schedule": Audited(of.SCHEDULE),
    "update_session_schedule": Audited(of.SCHEDULE),
    "delete_session_schedule": Audited(of.SCHEDULE),
    "create_database": Audited(of.DATABASE),
    "delete_database": Audited(of.DATABASE),
    "create_workspace": Audited(of.WORKSPACE),
    "update_workspace": Audited(of.WORKSPACE),
    "delete_workspace": Audited(of.WORKSPACE, "archived"),
    "copy_file": Audited(of.FILE, "copied"),
    "move_file": Audited(of.FILE, "moved"),
    "create_path": Audited(of.FILE),
    "update_path": Audited(of.FILE),
    "delete_path": Audited(of.FILE),
    "session_copy_file": Audited(of.FILE, "copied"),
    "session_move_file": Audited(of.FILE, "moved"),
    "session_create_path": Audited(of.FILE),
    "session_update_path": Audited(of.FILE),
    "session_delete_path": Audited(of.FILE),
    "create_file": Audited(of.FILE),
    "update_file": Audited(of.FILE),
    "delete_file": Audited(of.FILE),
    "grep_files": _NOTHING,
    "stat_file": _NOTHING,
    "session_grep_files": _NOTHING,
    "session_stat_file": _NOTHING,
    "grep_action": _NOTHING,
    "stat_action": _NOTHING,
    "upload_image": Audited(of.IMAGE, "uploaded"),
    "delete_image": Audited(of.IMAGE),
    "create_memory": Audited(of.MEMORY),
    "update_memory": Audited(of.MEMORY),
    "delete_memory": Audited(of.MEMORY, "deleted"),
    "sync_memory_now": _NOTHING,
    "redact_memory_version": Audited(of.MEMORY_VERSION, "redacted"),
    "create_provider": Audited(of.PROVIDER),
    "update_provider": Audited(of.PROVIDER),
    "delete_provider": Audited(of.PROVIDER),
    "check_provider_credentials": _NOTHING,
    "check_provider": _CHECKS,
    "sync_models": Audited(of.PROVIDER, "synced"),
    "create_model": Audited(of.MODEL),
    "update_model": Audited(of.MODEL),
    "delete_model": Audited(of.MODEL),
    "create_mcp_server": Audited(of.MCP_SERVER),
    "update_mcp_server": Audited(of.MCP_SERVER),
    "delete_mcp_server": Audited(of.MCP_SERVER, "archived"),
    "destroy_mcp_server": Audited(of.MCP_SERVER),
    "set_mcp_tool_label": Audited(of.MCP_SERVER),
    "check_mcp_server_connection": _CHECKS,
    "remove_session_mcp_server": Audited(of.SESSION),
    "accept_mcp_tool": Audited(of.MCP_TOOL, "accepted"),
    "accept_session_mcp_tool": Audited(of.MCP_TOOL, "accepted"),
    "create_skill": Audited(of.SKILL),
    "upload_skill": Audited(of.SKILL),
    "update_skill": Audited(of.SKILL),
    "delete_skill": Audited(of.SKILL, "archived"),
    "destroy_skill": Audited(of.SKILL),
    "validate_skill": _NOTHING,
    "create_webhook": Audited(of.WEBHOOK),
    "update_webhook": Audited(of.WEBHOOK),
    "delete_webhook": Audited(of.WEBHOOK),
    "test_webhook": _CHECKS,
    "create_task_push_config": Audited(of.WEBHOOK),
    "delete_task_push_config": Audited(of.WEBHOOK),
    "create_budget": Audited(of.BUDGET),
    "update_budget": Audited(of.BUDGET),
    "delete_budget": Audited(of.BUDGET),
    "top_up_budget": Audited(of.BUDGET, "topped_up"),
    "drain_worker": Audited(of.WORKER, "drained"),
    "resume_worker": Audited(of.WORKER, "resumed"),
    "close_circuit_breaker": "it only has the model tried again, as happens by itself",
    "cancel_workflow": _LOG,
    "retry_dead_letter": Audited(of.TURN, "retried"),
    "restore_entity_revision": Audited(of.AGENT, "restored", also=of.HARNESS),
    "run_command": "the operation that it runs leaves the entry",
    "mcp": "its tools begin sessions, send messages and decide; the sessions' own logs have all of it",
}
"""For each operation what the audit log has of it, or why it has nothing."""


def audited(operation_id: str) -> Audited | None:
    """Return what the audit log has of an operation; None if it has nothing."""
    found = OPERATIONS.get(operation_id)
    return found if isinstance(found, Audited) else None


def watched_app(call: Call, operation_id: str, what: Audited) -> tuple[App, Origin]:
    """Return the services of one audited request, whose changes leave entries, and where it comes from.

    Raises:
        InvalidInput: `invalid_reason`: the reason is too long.
    """
    caller, headers = call.caller, call.headers
    origin = Origin(
        caller.organization_id,
        caller.user_id or None,
        caller.token_id,
        operation_id,
        call.request_id,
        call.address,
        _bounded(headers, b"x-forwarded-for"),
        _bounded(headers, b"user-agent"),
        visible_line(call.reason or "") or _reason(headers),
    )
    return audited_app(call.app, origin, what), origin


def _bounded(headers: Headers, name: bytes) -> str | None:
    value = headers.get(name)
    return None if not value else visible_line(value.decode("utf-8", "replace")[:MAX_AGENT])


def _reason(headers: Headers) -> str | None:
    value = headers.get(REASON_HEADER.lower().encode(), b"").decode("utf-8", "replace").strip()
    if len(value) > MAX_REASON:
        raise InvalidInput(
            f"the header {REASON_HEADER} has {len(value)} characters; at most {MAX_REASON} are kept",
            code="invalid_reason",
            field=REASON_HEADER,
        )
    return visible_line(value) or None


async def deny(app: App, origin: Origin, route: Route, values: tuple[str, ...], body: object) -> None:
    """Add an entry about a request that the caller's role did not allow.

    Args:
        values: the variables of the path.
        body: the decoded body; None without one.
    """
    what = audited(route.operation_id)
    if what is not None and origin.org_id:
        await note_denied(app, origin, _denied(what, route, values, body, origin.org_id))


_SUBJECTS = ("session_id", "user_id", "subject_id")
"""Fields of bodies that name what the request is about, if the path names nothing."""
_NAMES = ("name", "display_name", "email", "url")
"""Fields of bodies that name what is to be created."""


def _denied(what: Audited, route: Route, values: tuple[str, ...], body: object, org_id: OrgId) -> Denied:
    kinds = {each.type: each for each in what.kinds}
    own = next((value for value in values if value.partition("_")[0] in kinds), "")
    watched = kinds.get(own.partition("_")[0]) or kinds.get(_text(body, "kind") or "") or what.watched
    subject = None if values else next((text for name in _SUBJECTS if (text := _text(body, name))), None)
    told = values or (() if subject is None else (subject,))
    session = next((each for each in map(_session_in, told) if each is not None), None)
    if watched.session == "id" and session is not None:
        entity: str = session
    else:
        known = re.compile(rf"{watched.prefix or watched.type}_[0-9a-f]{{32}}")  # no path of a file
        entity = next((value for value in told if known.fullmatch(value)), told[0] if told else org_id)
    deletes = route.method == "DELETE" or route.operation_id.startswith("destroy_")
    done: Verb = "deleted" if deletes else "created" if route.status == 201 else "updated"
    name = next((text for each in _NAMES if (text := _text(body, each))), None) if done == "created" else None
    shown = shown_name(name) if name else None
    return Denied(watched, what.action(watched, done), visible_line(entity), shown, session)


def _text(body: object, name: str) -> str | None:
    found = getattr(body, name, None)
    return found if isinstance(found, str) else None


def _session_in(value: str) -> SessionId | None:
    """Return the session that a variable of a path names: its own id, its workspace's, or that of a part."""
    if value.startswith("inbox_"):
        return session_of_item(value)
    head = value.partition(".")[0]  # the id of a turn has it before a dot
    return session_of(head) if is_id(head, "session") or is_id(head, "workspace") else None
