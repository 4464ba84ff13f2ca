"""What the OpenAPI document says about operations, beyond their summaries.

A test fails while one has no words here.
"""

from __future__ import annotations

from perdure.api.openapi.file_words import FILE_OPERATIONS, FILE_TAGS

TAGS: dict[str, str] = {
    **FILE_TAGS,
    "sessions": "A session is one conversation, for as long as you like: a log of events, and what follows from it.",
    "session storage": "Key-values and secrets that a session keeps for its tools.",
    "session schedules": "Messages that come to a session by themselves.",
    "session databases": "SQLite databases that belong to a session.",
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
    **FILE_OPERATIONS,
    "get_session_context_report": (
        "What the next model call would carry: the prompt, the tools, the messages, by kind and by whoever brings them. Tokens are "
        "estimated from characters; what vendors count is in the usage of each call."
    ),
    "create_session": (
        "Everything is optional. Without a harness it is the agent's; without an agent either it is the built-in `generic`. The "
        "harness and the agent are given by id or by name, not by both."
    ),
    "list_sessions": (
        "All filters must match. `total` counts what matches, whatever the page. With `search` or `tags` it is exact up to 200, with "
        "any other filter up to 5,000; a greater one means that there are at least so many, and it is always greater than `offset` + "
        "`limit` while more follows."
    ),
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
    "get_session_stats": "Over the whole organization; deleted ones do not count.",
    "fork_session": "The copy goes its own way: nothing that happens in one reaches the other. What is left out is as in the original.",
    "export_session_jsonl": "One message a line, oldest first.",
    "list_keys": "With their values, by key.",
    "list_secrets": "Their values are never shown.",
    "batch_set_secrets": "They are kept encrypted, and blanked wherever they would appear. Secrets that are not named stay.",
    "list_session_schedules": "Those that are off or over are among them.",
    "create_session_schedule": "By a cron expression or once; at most 5 of a session's schedules can be on.",
    "get_session_schedule": "With the time when it comes next.",
    "update_session_schedule": "A field that is left out stays.",
    "delete_session_schedule": "What it has sent stays.",
    "list_databases": "By name.",
    "create_database": "The agent's tools make one as well when they first write to it.",
    "get_database": "With its size.",
    "delete_database": "With all that is in it.",
    "get_schema": "Tables and views, with their columns.",
    "create_message": (
        "When this is answered, the message is on disk and will be worked on, whatever dies when. Between turns it starts one; in the "
        "middle of a turn it steers that turn: the next model call sees it. When the session waits for a client, the open calls count as "
        "cancelled and the turn goes on with the message."
    ),
    "list_messages": "Rebuilt from the log: what users and the agent said, and the results of tools.",
    "submit_tool_results": (
        "Answers every open call of the last `tool.call_requested` event, each once. What is not answered within the time that the event "
        "names becomes an error that the model sees. A call whose arguments do not fit its tool's schema is not asked: the model is told."
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
    "copy_agent": "The copy gets the next free name that ends in `-copy`, and versions of its own.",
    "export_agent": "The prompt is the text; everything else is YAML front matter. `import_agent` takes it back.",
    "import_agent": (
        "Markdown with YAML front matter, a YAML or JSON document, or a prompt and nothing else. The agent of that name is replaced "
        "(200), or made (201). With `from-example` the body may be empty."
    ),
    "preview_agent": "The prompt put together and the tools, as the model would get them; nothing is stored.",
    "analyze_agent": "Fixed rules; no model is asked, nothing is stored.",
    "check_agent_name": "What is malformed as a name is refused; a free name can be taken by somebody else a moment later.",
    "agent_config": "By the role that the caller has in the organization.",
    "get_agent_stats": "Over all its sessions that were not deleted.",
    "list_agent_versions": "Every change of an agent's configuration leaves a version behind.",
    "create_agent_version": (
        "Marks the agent as it is now, with a number and a summary of your own choice: `major` and `minor` move that part of the "
        "number, everything else its last part."
    ),
    "set_default_agent_version": (
        "Sessions that are made from now on run this version, whatever becomes of the agent; `null` lets them follow the agent again. "
        "Sessions that are there stay as they are."
    ),
    "diff_agent_versions": "JSON Patches (RFC 6902) that turn the first version into the second.",
    "fork_agent_version": "The new agent remembers where it comes from.",
    "rollback_agent_version": (
        "Sets the configuration back, not the name or the status. The result is a new version, unless `save_version` is false."
    ),
    "create_harness": "A harness inherits from its parent, if it names one.",
    "list_harnesses": "The built-in ones come first.",
    "get_harness": "By id, or by name.",
    "update_harness": "Built-in ones cannot be changed, only copied. A harness cannot inherit from itself, also not by way of others.",
    "delete_harness": "It is hidden from lists, and nothing new can stand on it; what does already goes on. Built-in ones stay.",
    "copy_harness": "The copy gets the next free name that ends in `-copy`. That of a built-in harness can be changed.",
    "list_examples": "Those that this server has the capabilities for.",
    "import_harness": "Under the example's own name, which must be free.",
    "preview_harness": "With its parents: the prompt put together and the tools, as the model would get them.",
    "check_harness_name": "What is malformed as a name is refused; a free name can be taken by somebody else a moment later.",
    "harness_config": "By the role that the caller has in the organization.",
    "get_harness_stats": "Over all its sessions that were not deleted.",
    "list_capabilities": "By id, each with its tools.",
    "get_capability": "By id, or by another id that means the same.",
    "create_provider": (
        "Address, key and options are checked for what can be told without a call. The key and the headers are kept encrypted; no "
        "answer shows them again."
    ),
    "list_providers": "Oldest first.",
    "get_provider": "Without its key.",
    "update_provider": (
        "A field that is left out stays, in `options` too; `null` clears. With another host in `base_url` the key and the headers "
        "have to be given again (or `null`): nobody can have a stored secret sent elsewhere."
    ),
    "provider_config": "For each type of provider the form of its credentials; and what the caller's role allows.",
    "sync_models": (
        "New models are registered (those that do not converse, switched off), known ones learn their window; those that were found "
        "earlier and are named no more become stale: hidden from lists, until they are named again. Nothing is deleted."
    ),
    "model_config": "By the role that the caller has in the organization.",
    "delete_provider": "Its models go with it. Sessions that name one of them use the next model that has a claim.",
    "create_model": "The first model that is registered becomes the organization's default.",
    "list_provider_models": "Oldest first, with what is known about each.",
    "list_all_models": "Of all providers, oldest first, with what is known about each.",
    "get_model": "With its provider, and with what is known about it: limits, abilities, prices.",
    "update_model": "A field that is left out stays.",
    "delete_model": "Sessions that name it use the next model that has a claim.",
    "list_organizations": "Those that the caller belongs to. For this nobody has to choose one with `X-Org-Id`.",
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
    "create_token": "The secret is in this answer and never again. Once there is a token, the server asks for one from its next start on.",
    "revoke_token": "Requests with it are refused from now on.",
    "create_user_token": "The secret is in this answer and never again.",
    "get_user": "`roles` are those in this organization.",
    "update_user": (
        "For admins. Nobody grants more than they have, nor changes somebody above them; the last owner stays one. It holds from the "
        "next request on."
    ),
    "remove_user": (
        "For admins, and not for somebody above them; everybody may leave. Their tokens stop working here at once, and those that work "
        "nowhere else are revoked; an open stream ends within minutes. Sessions and all else that they made stay. The last owner cannot go."
    ),
    "health": "For load balancers and the like: 200 when the server can work, 503 when it cannot.",
    "openapi_document": "OpenAPI 3.1, made from the table of routes that serves the requests.",
    "docs": "This document as a page, without anything from elsewhere.",
    "docs_errors": "Every error code, with what to do about it.",
}
