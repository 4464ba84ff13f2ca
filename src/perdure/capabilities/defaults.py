"""What a capability does unless it says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.domain.decisions import ANYBODY, Approvers

if TYPE_CHECKING:
    from perdure.capabilities.behaviour import Behaviour
    from perdure.capabilities.port import Tool
    from perdure.domain.guardrail_checks import AnyCheck
    from perdure.domain.memories import MemoryMount
    from perdure.domain.policy_hooks import Hook
    from perdure.domain.sessions import InitialFile


def no_tools(config: Any) -> tuple[Tool, ...]:
    """The default: no tools."""
    return ()


def no_prompt(config: Any) -> str | None:
    """The default: no text in the system prompt."""
    return None


def no_files(config: Any) -> tuple[InitialFile, ...]:
    """The default: no initial files."""
    return ()


def no_instructions(config: Any) -> tuple[str, ...]:
    """The default: no file holds instructions."""
    return ()


def no_gate(config: Any, tool: Tool) -> bool:
    """The default: no call needs approval."""
    return False


def any_member(config: Any) -> Approvers:
    """The default: every member may approve calls."""
    return ANYBODY


def no_checks(config: Any) -> tuple[AnyCheck, ...]:
    """The default: nothing is checked."""
    return ()


def no_hooks(config: Any) -> tuple[Hook, ...]:
    """The default: no hook is asked."""
    return ()


def no_mounts(config: Any) -> tuple[MemoryMount, ...]:
    """The default: no memories."""
    return ()


def no_watch(config: Any) -> bool:
    """The default: data may go out."""
    return False


def later(before: Any, after: Any) -> Any:
    """The default: the configuration of the later layer wins."""
    return after


def no_behaviour(config: Any, behaviour: Behaviour) -> Behaviour:
    """The default: the loop's behaviour does not change."""
    return behaviour
