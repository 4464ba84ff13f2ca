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
    """The configuration whose mode requires approval for more calls, with those who may approve for both."""
    mode = max(after, before, key=lambda config: _MODES.index(_mode(config)))
    both = _approvers(before).both(_approvers(after))
    if both == _approvers(mode):
        return mode
    return {**(mode or {}), "approvers": msgspec.json.decode(msgspec.json.encode(both))}


def _approvers(config: Any) -> Approvers:
    said = (config or {}).get("approvers", "any_member")
    if isinstance(said, str):
        return Approvers(owner=True) if said == "owner" else ANYBODY
    return msgspec.convert(said, Approvers)


def _gate(config: Any, tool: Tool) -> bool:
    """Whether a call of this tool needs approval.

    `normal` asks for tools that may destroy data, or change something outside the session. `protective` lets
    only reads inside the session pass: even a read outside, such as fetching a URL, can leak data.
    """
    mode = _mode(config)
    hints = tool.hints
    if mode == "off":
        return False
    if hints.destructive or (hints.open_world and not hints.readonly):
        return True
    return mode == "protective" and (not hints.readonly or bool(hints.open_world))


TOOL_APPROVAL = Capability(
    id="tool_approval",
    name="Tool approval",
    description=(
        "Makes tool calls wait for a person's approval: those that may destroy data or change something "
        "outside the session, or all except reads inside the session."
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
                    "outside the session, or write files with instructions (AGENTS.md); protective: every "
                    "call except reads inside the session. If several layers set a mode, the tightest one "
                    "applies."
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
    merge=_tighter,
)
