"""What answers look like, for the OpenAPI document. A test holds them against the types."""

from __future__ import annotations

from types import UnionType
from typing import Any, get_args, get_origin

from perdure.api.openapi.file_words import FILE_EXAMPLES
from perdure.domain.paging import Listing, Page

_NUMBER = "0192f0c1b2a37b5c8d4e5f60718293a4"
_TIME = "2026-03-14T09:26:53.589793Z"
_LATER = "2026-03-14T09:26:54.731204Z"
_SESSION_ID = f"session_{_NUMBER}"
_TURN_ID = f"turn_{_NUMBER}"
_MESSAGE_ID = f"message_{_NUMBER}"
_ORG_ID = f"org_{_NUMBER}"
_HARNESS_ID = f"harness_{_NUMBER}"
_AGENT_ID = f"agent_{_NUMBER}"
_MODEL_ID = f"model_{_NUMBER}"
_PROVIDER_ID = f"provider_{_NUMBER}"


def _links(url: str) -> dict[str, str]:
    return {"self_url": url, "view_url": url, "ui_link": url}


_SESSION: dict[str, Any] = {
    "id": _SESSION_ID,
    "organization_id": _ORG_ID,
    "harness_id": _HARNESS_ID,
    "owner_principal_id": f"principal_{_NUMBER}",
    "owner": {
        "id": f"principal_{_NUMBER}",
        "kind": "user",
        "subject_id": "0192f0c1-b2a3-7b5c-8d4e-5f60718293a4",
    },
    "resolved_owner_user_id": "0192f0c1-b2a3-7b5c-8d4e-5f60718293a4",
    "workspace_id": f"workspace_{_NUMBER}",
    "agent_id": _AGENT_ID,
    "title": "Refund of order 4711",
    "tags": ["support"],
    "status": "idle",
    "capabilities": [{"ref": "current_time"}],
    "tools": [],
    "features": ["file_system"],
    "is_pinned": False,
    "preview": "Where is my refund?",
    "output_preview": "It is on its way.",
    "usage": {"input_tokens": 812, "output_tokens": 34, "cache_read_tokens": 768},
    "created_at": _TIME,
    "updated_at": _LATER,
    "started_at": _TIME,
    "allowed_actions": [
        {
            "rel": "self",
            "method": "GET",
            "href": f"/v1/sessions/{_SESSION_ID}",
            "operation_id": "get_session",
        },
        {
            "rel": "delete",
            "method": "DELETE",
            "href": f"/v1/sessions/{_SESSION_ID}",
            "operation_id": "delete_session",
        },
    ],
    **_links(f"/v1/sessions/{_SESSION_ID}"),
}

_MESSAGE: dict[str, Any] = {
    "id": _MESSAGE_ID,
    "session_id": _SESSION_ID,
    "sequence": 2,
    "role": "user",
    "content": [{"type": "text", "text": "What is the capital of France?"}],
    "created_at": _TIME,
}
_EVENT: dict[str, Any] = {
    "id": "event_0192f0c1b2a37b5c8000000000c2d3e4",
    "type": "turn.started",
    "ts": _TIME,
    "session_id": _SESSION_ID,
    "sequence": 3,
    "context": {
        "turn_id": _TURN_ID,
        "input_message_id": _MESSAGE_ID,
        "trace_id": _TURN_ID,
        "span_id": "8d4e5f60718293a4",
    },
    "data": {
        "turn_id": _TURN_ID,
        "input_message_id": _MESSAGE_ID,
        "input_content": "What is the capital of France?",
    },
}

_AGENT: dict[str, Any] = {
    "id": _AGENT_ID,
    "name": "support-desk",
    "system_prompt": "You answer questions about orders.",
    "harness_id": _HARNESS_ID,
    "status": "active",
    "capabilities": [{"ref": "current_time"}],
    "tools": [],
    "tags": [],
    "session_count": 3,
    "app_count": 0,
    "created_at": _TIME,
    "updated_at": _TIME,
    **_links(f"/v1/agents/{_AGENT_ID}"),
}

_PROMPT = "You answer questions about orders."
_TOOL: dict[str, Any] = {
    "type": "builtin",
    "name": "get_current_time",
    "description": "The present date and time.",
    "parameters": {"type": "object", "properties": {}},
    "capability_id": "current_time",
    "policy": "auto",
}
_VERSION: dict[str, Any] = {
    "id": f"agentver_{_NUMBER}",
    "agent_id": _AGENT_ID,
    "version_number": 4,
    "version": "1.1.0",
    "semver_major": 1,
    "semver_minor": 1,
    "semver_patch": 0,
    "change_kind": "minor",
    "is_published": True,
    "config_hash": "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9",
    "authored_config": {"system_prompt": _PROMPT, "harness_id": _HARNESS_ID},
    "resolved_config": {
        "system_prompt": f"<agent>\n{_PROMPT}\n</agent>",
        "harnesses": ["base"],
        "capabilities": [],
        "features": [],
        "tools": [],
    },
    "created_at": _TIME,
    "summary": "Knows about refunds",
    "parent_version_id": "agentver_0192f0c1b2a37b5c8d4e5f60718293a3",
    "created_by_principal_id": f"principal_{_NUMBER}",
}
_STATS: dict[str, Any] = {
    "session_count": 3,
    "started_session_count": 1,
    "active_session_count": 0,
    "idle_session_count": 2,
    "waiting_for_tool_results_session_count": 0,
    "execution_count": 7,
    "total_input_tokens": 8120,
    "total_output_tokens": 340,
    "total_cache_read_tokens": 4096,
    "total_cache_creation_tokens": 0,
    "total_cost_usd": 0.0121,
    "total_estimated_cost_usd": 0.0121,
    "total_actual_cost_usd": 0.0,
    "total_session_duration_ms": 90500,
    "avg_session_duration_ms": 45250,
    "first_session_at": _TIME,
    "last_session_at": _LATER,
    "last_execution_at": _LATER,
}

_HARNESS: dict[str, Any] = {
    "id": _HARNESS_ID,
    "name": "generic",
    "display_name": "Generic",
    "description": "Files, a to-do list, the time and the session itself.",
    "status": "active",
    "is_built_in": True,
    "capabilities": [{"ref": "session_file_system"}, {"ref": "current_time"}],
    "tags": [],
    "session_count": 3,
    "app_count": 0,
    "created_at": _TIME,
    "updated_at": _TIME,
    **_links(f"/v1/harnesses/{_HARNESS_ID}"),
}

_CAPABILITY: dict[str, Any] = {
    "id": "current_time",
    "name": "Current time",
    "description": "Lets the agent ask for the present date and time in any time zone.",
    "status": "available",
    "category": "utility",
    "features": [],
    "dependencies": [],
    "tool_definitions": [
        {
            "name": "get_current_time",
            "description": "The present date and time.",
            "parameters": {"type": "object", "properties": {}},
        }
    ],
    **_links("/v1/capabilities/current_time"),
}

_PROVIDER: dict[str, Any] = {
    "id": _PROVIDER_ID,
    "name": "Local",
    "provider_type": "openai_completions",
    "base_url": "http://127.0.0.1:8080/v1",
    "api_key_set": True,
    "status": "active",
    "created_at": _TIME,
    "updated_at": _TIME,
    **_links(f"/v1/providers/{_PROVIDER_ID}"),
}

_MODEL: dict[str, Any] = {
    "id": _MODEL_ID,
    "model_id": "smollm2-135m",
    "display_name": "SmolLM2 135M",
    "provider_id": _PROVIDER_ID,
    "provider_name": "Local",
    "provider_type": "openai_completions",
    "capabilities": [],
    "enabled": True,
    "is_favorite": False,
    "source": "manual",
    "healthy": True,
    "context_tokens": 8192,
    "created_at": _TIME,
    "updated_at": _TIME,
    **_links(f"/v1/models/{_MODEL_ID}"),
}

_ORGANIZATION: dict[str, Any] = {
    "id": _ORG_ID,
    "name": "Acme",
    "default_model_id": _MODEL_ID,
    "default_provider_per_service": {},
    "created_at": _TIME,
    "updated_at": _TIME,
}
_USER: dict[str, Any] = {"id": f"user_{_NUMBER}", "name": "Ada", "email": "ada@example.com"}
_MEMBER = {**_USER, "roles": ["member"], "created_at": _TIME}

BY_TYPE: dict[str, Any] = {
    **FILE_EXAMPLES,
    "Session": _SESSION,
    "CancelledTurn": {"status": "cancelled", "message": "The turn was cancelled."},
    "SessionContextReport": {
        "session_id": _SESSION_ID,
        "model": "gpt-5",
        "estimated_input_tokens": 2310,
        "sections": [
            {"key": "system_prompt", "label": "System prompt", "tokens": 410, "items": 2},
            {"key": "user_messages", "label": "Messages of the user", "tokens": 1900, "items": 12},
        ],
        "contributions": [
            {
                "section_key": "system_prompt",
                "source_id": "support-desk",
                "label": "Agent support-desk",
                "tokens": 290,
            },
            {
                "section_key": "system_prompt",
                "source_id": "session_file_system",
                "label": "Files",
                "tokens": 120,
            },
        ],
        "context_window_tokens": 400000,
    },
    "SessionStats": {
        "total": 44,
        "started": 1,
        "active": 2,
        "idle": 40,
        "waiting_for_tool_results": 1,
        "paused": 0,
    },
    "KeyValue": {"key": "customer_id", "value": "4711", "created_at": _TIME, "updated_at": _TIME},
    "SecretInfo": {"name": "SHOP_TOKEN", "created_at": _TIME, "updated_at": _TIME},
    "SecretsSet": {"count": 1},
    "Schedule": {
        "id": f"sched_{_NUMBER}",
        "session_id": _SESSION_ID,
        "message": "Check the mailbox and summarise what is new.",
        "kind": "cron",
        "cron": "0 9 * * mon-fri",
        "timezone": "Europe/Paris",
        "enabled": True,
        "fire_count": 12,
        "created_at": _TIME,
        "updated_at": _TIME,
        "next_at": _LATER,
    },
    "DatabaseInfo": {
        "name": "orders",
        "size_bytes": 12288,
        "page_count": 3,
        "created_at": _TIME,
        "updated_at": _TIME,
    },
    "DatabaseSchema": {
        "database": "orders",
        "tables": [{"name": "orders", "type": "table", "columns": [{"name": "id", "type": "INTEGER"}]}],
    },
    "Message": _MESSAGE,
    "SubmittedToolResults": {"accepted": 1, "status": "active"},
    "WireEvent": _EVENT,
    "EventsSummary": {
        "total": 9,
        "turn_count": 1,
        "error_count": 0,
        "by_type": [{"event_type": "turn.started", "count": 1}],
        "first_ts": _TIME,
        "last_ts": _LATER,
    },
    "Agent": _AGENT,
    "AgentVersion": _VERSION,
    "AgentVersionDiff": {
        "from_version_id": _VERSION["parent_version_id"],
        "to_version_id": _VERSION["id"],
        "authored_diff": [
            {"op": "replace", "path": "/system_prompt", "value": _PROMPT, "old": "You answer questions."}
        ],
        "resolved_diff": [],
    },
    "AgentPreview": {"system_prompt": f"<agent>\n{_PROMPT}\n</agent>", "tools": [_TOOL], "findings": []},
    "Analysis": {
        "findings": [
            {
                "rule_id": "prompt_short",
                "category": "completeness",
                "severity": "suggestion",
                "message": "The prompt hardly says what the agent is for.",
                "source": "builtin",
                "location": {"field": "system_prompt"},
            }
        ]
    },
    "NameCheck": {"available": True},
    "ResourceConfig": {"policies": {"agent.manage": True}},
    "ResourceStats": _STATS,
    "Harness": _HARNESS,
    "HarnessExample": {
        "name": "notebook",
        "display_name": "Notebook",
        "description": "Keeps what it learns in files.",
        "capabilities": [{"ref": "session_file_system"}],
        "tags": ["files"],
        "dev_only": False,
        "parent_name": "base",
    },
    "HarnessPreview": {"system_prompt": "<harness>\nAnswer briefly.\n</harness>", "tools": [_TOOL]},
    "CapabilityInfo": _CAPABILITY,
    "Provider": _PROVIDER,
    "Model": _MODEL,
    "ProvidersConfig": {
        "drivers": [
            {
                "driver": "openai",
                "credential_schema": {
                    "fields": [
                        {"name": "api_key", "label": "API key", "field_type": "password", "required": True}
                    ],
                    "instructions_markdown": "Make a key at [platform.openai.com](https://platform.openai.com/api-keys).",
                },
                "supports_oauth": False,
            }
        ],
        "policies": {"provider.manage": True},
    },
    "SyncedModels": {"status": "success", "created": 12, "updated": 3, "stale": 1},
    "Organization": _ORGANIZATION,
    "ResolvedOrganization": {"org_id": _ORG_ID, "org_name": "Acme"},
    "SwitchedOrganization": {"org_id": _ORG_ID, "success": True},
    "User": _MEMBER,
    "Profile": _USER,
    "DeletedAccount": {"deleted": True},
    "ExportedUser": {
        "exported_at": _LATER,
        "user": _MEMBER,
        "organizations": [{"id": _ORG_ID, "name": "Acme", "role": "owner"}],
        "personal_access_tokens": [],
    },
    "Token": {
        "id": f"token_{_NUMBER}",
        "name": "build server",
        "hint": "x8Qd",
        "created_at": _TIME,
        "expires_at": _LATER,
    },
    "Health": {
        "status": "ok",
        "version": "0.1.0",
        "database": "ok",
        "queue": "ok",
        "running_sessions": 2,
        "waiting_jobs": 0,
    },
}
"""By the name of the type of the answer."""


def example_of(kind: Any) -> Any:
    """An answer of this type; None where there is no example yet."""
    if isinstance(kind, UnionType):
        kind = get_args(kind)[0]
    origin = get_origin(kind)
    if origin in (Page, Listing):
        one = BY_TYPE.get(get_args(kind)[0].__name__)
        if one is None:
            return None
        return {"data": [one], "total": 1, "offset": 0, "limit": 20} if origin is Page else {"data": [one]}
    if origin is tuple:
        one = BY_TYPE.get(get_args(kind)[0].__name__)
        return None if one is None else [one]
    if origin is dict:
        return {"openapi": "3.1.0", "info": {"title": "Perdure", "version": "0.1.0"}, "paths": {}}
    return BY_TYPE.get(kind.__name__)


EVENT_STREAM = (
    'event: connected\ndata: {"status":"connected"}\n\n'
    f"id: {_EVENT['id']}\nevent: turn.started\nretry: 1000\n"
    f'data: {{"id":"{_EVENT["id"]}","type":"turn.started","ts":"{_TIME}","session_id":"{_SESSION_ID}","sequence":3,'
    f'"context":{{"turn_id":"{_TURN_ID}"}},"data":{{"turn_id":"{_TURN_ID}","input_message_id":"{_MESSAGE_ID}"}}}}\n\n'
)

_ERRORS: dict[int, tuple[str, str, dict[str, Any]]] = {
    400: (
        "invalid_id",
        "`session_id` must be an id of the form session_<32 lower-case hex digits>",
        {"field": "session_id"},
    ),
    401: ("unauthenticated", "give a valid access token in the Authorization header", {}),
    403: ("forbidden", "this takes the role admin", {}),
    404: ("session_not_found", "no such session", {}),
    409: ("idempotency_key_reused", "this Idempotency-Key belongs to another request", {}),
    412: ("precondition_failed", "the resource has changed since it was read", {}),
    413: ("too_large", "the body is over 10 MB", {}),
    415: ("unsupported_media_type", "send JSON, with the content type application/json", {}),
    429: ("rate_limited", "too many requests: slow down", {"retry_after_seconds": 1}),
    502: ("provider_unavailable", "the provider could not be reached", {}),
    503: ("unavailable", "the database does not answer", {"retry_after_seconds": 1}),
}
"""One error of each status: its code, its words, and what else comes with it."""


def error_example(status: int, title: str) -> dict[str, Any]:
    """An example of an error's body."""
    code, detail, rest = _ERRORS[status]
    return {
        "type": f"/docs/errors#{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "error": {"code": code, "message": detail},
        "instance": f"/v1/sessions/{_SESSION_ID}",
        **rest,
    }
