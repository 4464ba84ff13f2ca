"""Descriptions of the tags, which group operations in the OpenAPI document.

Operations are described by their handlers' docstrings. A test fails if a tag has no description here.
"""

from __future__ import annotations

TAGS: dict[str, str] = {
    "workspaces": (
        "A workspace is a tree of files. Every session has its own workspace, or uses one that was created "
        "separately and that several sessions can share."
    ),
    "workspace files": "The files of a workspace.",
    "session files": "The files of the session's workspace. The workspace's own routes show the same files.",
    "images": "Images that were uploaded for messages. Other files come with a message, or by their path.",
    "sessions": "A session is a conversation with an agent. It is a log of events and never expires.",
    "memory": (
        "A memory is a store of versioned text files that several sessions share: of the organization, of an "
        "agent or of a user."
    ),
    "session storage": "Key-value pairs and secrets that a session stores for its tools.",
    "session schedules": "Messages that the server sends to a session at given times.",
    "session databases": "SQLite databases that belong to a session.",
    "messages": "Messages of a session, and the clients' answers to its tool calls: results and approvals.",
    "tasks": (
        "A task is work that a session has begun and does not do in its own turn: by a sub-agent, or by a "
        "tool that runs in the background. It ends once."
    ),
    "inbox": "What sessions wait for that a person decides, in all sessions of the organization.",
    "events": "A session's log of events: read it in pages or follow it live.",
    "agents": "An agent is a named configuration: a prompt, a model and capabilities.",
    "harnesses": "A harness is a base for agents: a prompt and capabilities that all agents on it share.",
    "capabilities": "The capabilities of this server. A capability gives agents tools, instructions or both.",
    "providers": "Providers are the services that run models: an address, a protocol and a key.",
    "models": "The models of the providers.",
    "task webhooks": "URLs that hear of tasks: of the end of every task, or of the events of one.",
    "budgets": "Limits on what model calls may cost. Money is held before a call is sent.",
    "spend": "The ledger of model calls: what was used and what it cost, by model, day, session, user ...",
    "mcp servers": "MCP servers give agents the tools of others. Each is a capability, `mcp:{id}`.",
    "skills": "Skills are instructions for particular tasks. Each is a capability, `skill:{id}`.",
    "organizations": "Every resource belongs to one organization. Other organizations cannot see it.",
    "erasure": "Erasures of sessions and users, with receipts, and legal holds against them.",
    "connections": "Sign-ins of users, and of organizations, at MCP servers that their agents use.",
    "operations": "What runs turns, for those who run the server: processes, turns, what is stuck.",
    "audit": "Who changed what, when, from where, and what was there before and after.",
    "history": "Every state of agents and harnesses: see it, compare it, restore it.",
    "users": "Users, their roles in organizations, and their access tokens.",
    "system": "Health of the server, and its documentation.",
}
