"""What the OpenAPI document says about operations, beyond their summaries. A test fails while one has no words here."""

from __future__ import annotations

TAGS: dict[str, str] = {
    "sessions": "A session is one conversation, for as long as you like: a log of events, and what follows from it.",
    "messages": "What is said in a session, and the answers of clients to its tool calls.",
    "events": "The session's log, read in pages or followed live.",
    "agents": "A prompt, a model and abilities under a name.",
    "harnesses": "What lies under agents: the abilities that every agent on it has.",
    "capabilities": "What this server's sessions can do.",
    "providers": "Where models are.",
    "models": "The models of the providers.",
    "organizations": "Everything belongs to an organization, and nothing crosses from one to another.",
    "users": "Who may do something, in which organization, and with which access token.",
    "system": "The server itself.",
}

OPERATIONS: dict[str, str] = {
    "create_session": (
        "Everything is optional. Without a harness it is the agent's; without an agent either it is the built-in `generic`. The "
        "harness and the agent are given by id or by name, not by both."
    ),
    "list_sessions": "All filters must match. `total` counts what matches, whatever the page.",
    "get_session": "The session as it is now.",
    "update_session": (
        "Allowed at any time, also while a turn runs, which it does not disturb. A field that is left out stays, `null` clears it; an "
        "empty object changes nothing."
    ),
    "delete_session": "A running turn is cancelled first. Afterwards every route of the session answers 404.",
    "cancel_turn": (
        "Ends the running or waiting turn; a model call that is under way is broken off within a second. When nothing runs the answer "
        "is `no_op`."
    ),
    "pin_session": "Doing it twice is fine.",
    "unpin_session": "Doing it twice is fine.",
    "create_message": (
        "When this is answered, the message is on disk and will be worked on, whatever dies when. Between turns it starts one; in the "
        "middle of a turn it steers that turn: the next model call sees it. When the session waits for a client, the open calls count as "
        "cancelled and the turn goes on with the message."
    ),
    "list_messages": "Rebuilt from the log: what users and the agent said, and the results of tools.",
    "submit_tool_results": (
        "Answers every open call of the last `tool.call_requested` event, each once. What is not answered within the time that the event "
        "names becomes an error that the model sees."
    ),
    "submit_tool_approvals": (
        "Decides on some or all of the open questions of the last `tool.call_requested` event; with the last one the turn goes on. "
        "`allow` covers this call with exactly these arguments, once."
    ),
    "list_events": (
        "`before_sequence`, `after_sequence` and `around` exclude one another. `before_sequence` gives the events just before that "
        "place. The order is that of the log unless `order_desc` is set."
    ),
    "events_summary": "Counts by type, and the times of the first and the last event.",
    "stream_sse": (
        "Server-sent events: first a frame `connected`; then what is in the log after `since_id` (or the `Last-Event-ID` header); "
        "then what happens, without a gap or a repeat at the seam, with live text among it. Each frame has the event's id, its type "
        "and the event as JSON. The server ends connections now and then with a `disconnecting` frame: connect again with the last id."
    ),
    "create_agent": "An agent with this `id` or `name` is replaced (200); else a new one is made (201).",
    "list_agents": "Archived agents are left out unless asked for.",
    "get_agent": "By id, or by name.",
    "upsert_agent": "The agent with this id is replaced (200), or made (201).",
    "update_agent": "A field that is left out stays; `null` clears one that can be empty.",
    "delete_agent": (
        "It is hidden from lists and starts no more sessions. Those that it has stop, with words that a person can read, at their "
        "next step. `PATCH` with the status `active` brings it back."
    ),
    "create_harness": "A harness inherits from its parent, if it names one.",
    "list_harnesses": "The built-in ones come first.",
    "get_harness": "By id, or by name.",
    "list_capabilities": "By id, each with its tools.",
    "get_capability": "By id, or by another id that means the same.",
    "create_provider": "The key is kept encrypted; no answer shows it again.",
    "list_providers": "Oldest first.",
    "get_provider": "Without its key.",
    "update_provider": "A field that is left out stays; `null` clears `base_url` and `api_key`.",
    "delete_provider": "Its models go with it. Sessions that name one of them use the next model that has a claim.",
    "create_model": "The first model that is registered becomes the organization's default.",
    "list_provider_models": "Oldest first.",
    "list_all_models": "Of all providers, oldest first.",
    "get_model": "With the name and type of its provider.",
    "update_model": "A field that is left out stays.",
    "delete_model": "Sessions that name it use the next model that has a claim.",
    "list_organizations": "Those that the caller belongs to.",
    "create_organization": "The caller becomes its owner. It begins with the built-in harnesses.",
    "get_organization": "With its defaults.",
    "update_organization": "A field that is left out stays; `null` clears a default.",
    "complete_org_onboarding": "For user interfaces: remembers when. Doing it twice is fine.",
    "resolve_org": "For links that carry only the id of a resource.",
    "list_users": "The organization's members.",
    "add_user": "A person is known by the e-mail address, in any case.",
    "get_profile": "The caller's own account.",
    "update_profile": "The name that others see.",
    "delete_account": "Refused while an organization has no other owner.",
    "export_user_data": "The account, its organizations and its tokens, without their secrets.",
    "switch_org": "Changes nothing on the server: it says whether `X-Org-Id` may name the organization.",
    "list_tokens": "Without their secrets.",
    "create_token": "The secret is in this answer and never again. From the first token on, every request needs one.",
    "revoke_token": "Requests with it are refused from now on.",
    "create_user_token": "The secret is in this answer and never again.",
    "health": "For load balancers and the like: 200 when the server can work, 503 when it cannot.",
    "openapi_document": "OpenAPI 3.1, made from the table of routes that serves the requests.",
    "docs": "This document as a page, without anything from elsewhere.",
    "docs_errors": "Every error code, with what to do about it.",
}
