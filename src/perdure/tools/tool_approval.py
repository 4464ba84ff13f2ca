"""`tool_approval`: some tool calls wait until a person approves them.

The engine enforces it before the tool runs; it does not depend on the prompt.
"""

from __future__ import annotations

from typing import Any

import msgspec

from perdure.capabilities.port import Capability, Tool, schema
from perdure.domain.decisions import ANYBODY, MAX_APPROVERS, Approvers

_MODES = ("off", "normal", "protective")
"""From the loosest to the tightest."""


def _mode(config: Any) -> str:
    return str((config or {}).get("mode", "normal"))


def _tighter(before: Any, after: Any) -> Any:
    """The configuration that requires approval for what either does, with those who may approve for both."""
    tight = max(after, before, key=lambda config: _MODES.index(_mode(config)))
    both = _approvers(before).both(_approvers(after))
    if both != _approvers(tight):
        tight = {**(tight or {}), "approvers": msgspec.json.decode(msgspec.json.encode(both))}
    if _asks_about_data(before) or _asks_about_data(after):
        return tight if _asks_about_data(tight) else {**(tight or {}), "exfiltration": "ask"}
    return tight


def _asks_about_data(config: Any) -> bool:
    """Whether calls that can send data out need approval once the context has text from outside."""
    said = (config or {}).get("exfiltration")
    return said == "ask" if said is not None else _mode(config) == "protective"


def _approvers(config: Any) -> Approvers:
    said = (config or {}).get("approvers", "any_member")
    if isinstance(said, str):
        return Approvers(owner=True) if said == "owner" else ANYBODY
    return msgspec.convert(said, Approvers)


def _gate(config: Any, tool: Tool) -> bool:
    """Whether a call of this tool needs approval.

    `normal` asks for tools that may destroy data, or change something outside the session or what its later
    turns do. `protective` lets only reads inside the session pass: even a read outside, such as fetching a
    URL, can leak data.
    """
    mode = _mode(config)
    hints = tool.hints
    if mode == "off":
        return False
    if hints.destructive or tool.persistent or (hints.open_world and not hints.readonly):
        return True
    return mode == "protective" and (not hints.readonly or bool(hints.open_world))


TOOL_APPROVAL = Capability(
    id="tool_approval",
    name="Tool approval",
    description=(
        "Makes tool calls wait for a person's approval: those that may destroy data, change something "
        "outside the session or what its later turns do, or all except reads inside the session. Also those "
        "that can send data out, once text from outside is in the context."
    ),
    category="safety",
    config_schema=schema(
        {
            "mode": {
                "type": "string",
                "enum": list(_MODES),
                "default": "normal",
                "description": (
                    "off: no call needs approval; normal: calls that may destroy data, change something "
                    "outside the session, or change what later turns do (schedules, AGENTS.md, skills); "
                    "protective: every call except reads inside the session. If several layers set a mode, "
                    "the tightest one applies."
                ),
            },
            "exfiltration": {
                "type": "string",
                "enum": ["off", "ask"],
                "description": (
                    "ask: once text from outside (web_fetch, MCP servers, callbacks) is in the context, "
                    "calls that can send data out need approval, also those of tools that were allowed for "
                    "always without this reason. The default is ask with the mode protective, and off with "
                    "others. If several layers set it, ask applies."
                ),
            },
            "approvers": {
                "anyOf": [
                    {"type": "string", "enum": ["any_member", "owner"]},
                    {
                        "type": "object",
                        "properties": {
                            "owner": {"type": "boolean"},
                            "role": {"type": "string", "enum": ["member", "admin", "owner"]},
                            "users": {
                                "type": "array",
                                "items": {"type": "string", "pattern": "^user_[0-9a-f]{32}$"},
                                "minItems": 1,
                                "maxItems": MAX_APPROVERS,
                            },
                        },
                        "additionalProperties": False,
                        "minProperties": 1,
                    },
                ],
                "default": "any_member",
                "description": (
                    "Who may decide: any_member: every member of the organization; owner: the session's "
                    "owner; or an object with `role` (members with at least this role), `users` (their "
                    "ids) or `owner`; if it has several, all must hold. If several layers say it, whoever "
                    "decides must be among those of each."
                ),
            },
        }
    ),
    gate=_gate,
    approvers=_approvers,
    watches_data=_asks_about_data,
    merge=_tighter,
)
