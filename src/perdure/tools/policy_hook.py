"""`policy_hook`: an HTTP service decides about model calls and tool calls.

The engine asks it; see `engine/hooks.py`.
"""

from __future__ import annotations

from perdure.capabilities.port import Capability, schema
from perdure.domain import policy_hooks as hooks

_EVENTS = ["before_model", "before_tool", "after_tool"]


def _mode(default: str) -> dict[str, object]:
    return {"type": "string", "enum": ["open", "closed"], "default": default}


POLICY_HOOK = Capability(
    id=hooks.POLICY_HOOK,
    name="Policy hook",
    description=(
        "Asks an HTTP service of yours before model calls, and before and after tool calls. It allows, "
        "modifies or blocks them. The hooks of all layers are asked: a layer can only add some."
    ),
    category="safety",
    config_schema=schema(
        {
            "url": {
                "type": "string",
                "minLength": 1,
                "maxLength": 2048,
                "description": (
                    "Where the hook is asked, by POST: an http or https URL. Private addresses are refused "
                    "unless the setting PERDURE_PRIVATE_ADDRESSES allows them. Redirects are not followed."
                ),
            },
            "secret": {
                "type": "string",
                "description": (
                    "What requests are signed with, as those of webhooks: `whsec_` and base64 of 16 to 256 "
                    "bytes, or another text of such a length. It is stored encrypted, and shown only so "
                    "(`sealed:...`), which stands for it as long as the URL stays the same."
                ),
            },
            "name": {
                "type": "string",
                "minLength": 1,
                "maxLength": hooks.MAX_LABEL,
                "description": "What the log calls the hook. Default: the host of its URL.",
            },
            "events": {
                "type": "array",
                "items": {"type": "string", "enum": _EVENTS},
                "minItems": 1,
                "maxItems": 3,
                "default": ["before_tool"],
                "description": "What the hook is asked about.",
            },
            "tools": {
                "type": "array",
                "items": {"type": "string", "pattern": r"^[A-Za-z0-9_-]{1,128}\*?$|^\*$"},
                "maxItems": 50,
                "description": "The tools that it is asked about; `mcp_*` is a prefix. Default: all.",
            },
            "timeout_seconds": {
                "type": "number",
                "minimum": 0.1,
                "maximum": hooks.MAX_TIMEOUT,
                "default": 5,
                "description": "Seconds to wait for an answer.",
            },
            "on_failure": {
                "type": "object",
                "properties": {
                    "before_model": _mode("open"),
                    "before_tool": _mode("closed"),
                    "after_tool": _mode("closed"),
                },
                "additionalProperties": False,
                "description": (
                    "What happens if the hook gives no valid decision in time. open: the call goes on; "
                    "closed: it is blocked."
                ),
            },
            "include_arguments": {
                "type": "boolean",
                "default": True,
                "description": "Whether requests have the arguments of tool calls.",
            },
            "include_result": {
                "type": "boolean",
                "default": True,
                "description": "Whether requests of `after_tool` have the result.",
            },
            "include_messages": {
                "type": "integer",
                "minimum": 0,
                "maximum": 50,
                "default": 10,
                "description": "How many of the newest messages requests of `before_model` have.",
            },
            "max_body_bytes": {
                "type": "integer",
                "minimum": 4096,
                "maximum": hooks.MAX_ANSWER,
                "default": 65_536,
                "description": "The most bytes of a request. Longer texts are cut, and the request says so.",
            },
            "redact": {
                "type": "boolean",
                "default": True,
                "description": "Whether the session's secrets are redacted in arguments and results.",
            },
        },
        "url",
        "secret",
    ),
    hooks=hooks.hooks_of,
)
