"""Policy hooks: HTTP services that decide about model calls and tool calls (decision 58).

The configuration of the capability `policy_hook`, what a hook answers, and which hooks are asked.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from hashlib import blake2b
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.messages import JsonValue
from perdure.domain.nesting import is_deep

POLICY_HOOK = "policy_hook"
"""The id of the capability."""

HookEvent = Literal["before_model", "before_tool", "after_tool"]
OnFailure = Literal["open", "closed"]

MAX_HOOKS = 10
"""The most hooks of a session, with those of all its layers."""
MAX_ANSWER = 1 << 20
"""Bytes of a hook's answer."""
MAX_REASON = 500
"""Characters that are kept of a hook's reason."""
MAX_LABEL = 100
"""Characters of a hook's name."""
MAX_TIMEOUT = 30.0
"""The most seconds that a hook may take to answer."""

MAX_SECRET = 1_024
"""Characters of a secret, encrypted or not."""
SEALED = "sealed:"
"""How a secret begins that is stored encrypted."""

BLOCKED, UNAVAILABLE = "blocked_by_policy", "policy_unavailable"
"""The error codes of what a hook has blocked, and of what was not done because a hook gave no decision."""

INVALID = "invalid_capability_config"


class FailureModes(Struct, frozen=True):
    """What happens if a hook gives no decision: `open` goes on without it, `closed` blocks."""

    before_model: OnFailure = "open"
    before_tool: OnFailure = "closed"
    after_tool: OnFailure = "closed"


class Hook(Struct, frozen=True, kw_only=True):
    """The configuration.

    Attributes:
        secret: what requests are signed with; encrypted once it is stored.
        name: what people call the hook; by default, the host of its URL.
        tools: the tools that it is asked about, by name; one that ends in `*` is a prefix. Empty: all.
        timeout_seconds: for each answer, with one attempt to connect again.
        include_arguments, include_result: whether requests have them.
        include_messages: how many of the newest messages `before_model` sends.
        max_body_bytes: the bytes of a request's body; longer texts are cut.
        redact: whether the session's secrets are redacted in what is sent.
    """

    url: str
    secret: str
    name: str | None = None
    events: tuple[HookEvent, ...] = ("before_tool",)
    tools: tuple[str, ...] = ()
    timeout_seconds: float = 5.0
    on_failure: FailureModes = FailureModes()
    include_arguments: bool = True
    include_result: bool = True
    include_messages: int = 10
    max_body_bytes: int = 65_536
    redact: bool = True

    @property
    def label(self) -> str:
        """The hook's name, for people and the log."""
        return (self.name or urlsplit(self.url).hostname or "policy hook")[:MAX_LABEL]

    @property
    def binding(self) -> str:
        """What the encrypted secret is bound to: it is of no use for another URL."""
        return f"{POLICY_HOOK}/{self.url}"

    def hears(self, event: HookEvent, tool: str | None = None) -> bool:
        """Whether it is asked about this event, of this tool."""
        if event not in self.events:
            return False
        return tool is None or not self.tools or any(_matches(each, tool) for each in self.tools)

    def is_closed(self, event: HookEvent) -> bool:
        """Whether what it does not decide about is blocked."""
        return bool(getattr(self.on_failure, event) == "closed")


def _matches(pattern: str, tool: str) -> bool:
    return tool.startswith(pattern[:-1]) if pattern.endswith("*") else tool == pattern


class NewText(Struct, frozen=True):
    """Another text for a message of the user, which the model receives instead."""

    id: Annotated[str, Meta(description="The message.")]
    text: Annotated[str, Meta(description="The text that the model receives instead.")]


class Answer(Struct, frozen=True):
    """What a hook answers.

    Attributes:
        arguments, result, messages: with `modify`, what takes the place of what was sent: `arguments` before
            a tool call, `result` after it, `messages` before a model call.
    """

    decision: Literal["allow", "modify", "block"]
    reason: str | None = None
    arguments: JsonValue = None
    result: JsonValue = None
    messages: tuple[NewText, ...] = ()


class NoDecision(Exception):
    """A hook gave no decision that can be used; the message says why."""


def read_answer(body: bytes, event: HookEvent) -> Answer:
    """Read a hook's answer. Raises NoDecision if it is not one to this event."""
    try:
        answer = msgspec.json.decode(body, type=Answer)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NoDecision(f"the answer is not valid: {str(error)[:200]}") from None
    changed = {
        "before_tool": answer.arguments,
        "after_tool": answer.result,
        "before_model": answer.messages or None,
    }[event]
    if answer.decision == "modify" and changed is None:
        field = {"before_tool": "arguments", "after_tool": "result", "before_model": "messages"}[event]
        raise NoDecision(f"the answer modifies, and has no `{field}`")
    if event != "before_model" and is_deep(changed):
        raise NoDecision("the answer is nested too deep")
    reason = " ".join((answer.reason or "").split())[:MAX_REASON] or None
    return msgspec.structs.replace(answer, reason=reason)


def hook_of(config: Any) -> Hook:
    """Read a configuration, which its schema has been checked against.

    Raises:
        InvalidInput: it cannot be read. What it has is not in the message, because of the secret.
    """
    try:
        return msgspec.convert(config, Hook)
    except msgspec.ValidationError:
        raise InvalidInput(
            f"the capability {POLICY_HOOK} needs a configuration with a `url` and a `secret`", code=INVALID
        ) from None


def hooks_of(config: Any) -> tuple[Hook, ...]:
    """The hook of a layer's configuration. Raises InvalidInput as `hook_of` does."""
    return (hook_of(config),)


def for_event(hooks: Iterable[Hook], event: HookEvent, tool: str | None = None) -> tuple[Hook, ...]:
    """Those of the hooks that are asked about an event, in order."""
    return tuple(hook for hook in hooks if hook.hears(event, tool))


def question_id(hook: Hook, body: bytes) -> str:
    """The id of a request: the same whenever the same is asked, after a crash too."""
    return "hook_" + blake2b(hook.url.encode() + b"\n" + body, digest_size=16).hexdigest()


def restored(changed: JsonValue, shown: JsonValue, real: JsonValue) -> JsonValue:
    """What a hook made of redacted arguments, with the secrets where it left them as they were.

    Args:
        changed: what the hook answered; at most `MAX_NESTING` levels deep.
        shown: what it was sent; real: the same with the secrets.
    """
    if changed == shown:
        return real
    if isinstance(changed, dict) and isinstance(shown, dict) and isinstance(real, dict):
        return {
            name: restored(value, shown[name], real[name]) if name in shown and name in real else value
            for name, value in changed.items()
        }
    if isinstance(changed, list) and isinstance(shown, list) and isinstance(real, list):
        known = min(len(shown), len(real))
        return [
            restored(value, shown[index], real[index]) if index < known else value
            for index, value in enumerate(changed)
        ]
    return changed


def sealed_text(sealed: bytes) -> str:
    """An encrypted secret as configurations have it."""
    return SEALED + base64.b64encode(sealed).decode()


def sealed_bytes(secret: str) -> bytes:
    """The encrypted secret of a configuration. Raises ValueError: it is not encrypted."""
    if not secret.startswith(SEALED):
        raise ValueError("the secret is not encrypted")
    return base64.b64decode(secret.removeprefix(SEALED), validate=True)
