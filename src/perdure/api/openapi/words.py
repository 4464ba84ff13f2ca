"""What the OpenAPI document says about groups of operations. Operations are described by their handlers.

A test fails while a group has no words here.
"""

from __future__ import annotations

TAGS: dict[str, str] = {
    "workspaces": (
        "A workspace is a tree of files. Every session has one of its own, or shares one that was made by "
        "itself."
    ),
    "workspace files": "The files of a workspace.",
    "session files": "The files of the workspace that a session works in: the same as below that workspace.",
    "sessions": (
        "A session is one conversation, for as long as you like: a log of events, and what follows from it."
    ),
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
