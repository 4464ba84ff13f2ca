"""The policies of layers, compared: whether a change of an agent loosens what it is bound by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from msgspec import Struct

from perdure.capabilities.layers import Layer, needing_approval
from perdure.capabilities.port import Tool, ToolContext, ToolOutcome
from perdure.capabilities.registry import Active, Registry
from perdure.capabilities.resolve import approvers_of
from perdure.domain.decisions import ANYBODY, Approvers
from perdure.domain.guardrail_checks import AnyCheck
from perdure.domain.messages import JsonObject
from perdure.domain.network import NetworkRules, combine
from perdure.domain.policy_hooks import Hook
from perdure.domain.tools import ToolHints


class Policy(Struct, frozen=True):
    """What layers require of the sessions above them.

    Attributes:
        gates: the active capabilities that decide which calls need approval, or have hooks decide.
        gated: the tools whose definitions require approval.
        approvers: who may approve calls.
        checks: the checks of guardrails.
        watches_data: whether calls that can send data out need approval after text from outside.
    """

    gates: tuple[Active, ...]
    gated: frozenset[str]
    network: NetworkRules
    approvers: Approvers = ANYBODY
    checks: frozenset[AnyCheck] = frozenset()
    watches_data: bool = False

    def asks(self, tool: Tool) -> bool:
        """Whether calls of a tool need approval."""
        return tool.name in self.gated or any(each.gates(tool) for each in self.gates)

    def hooks(self) -> tuple[Hook, ...]:
        """The policy hooks. Raises InvalidInput: one cannot be read."""
        return tuple(hook for each in self.gates for hook in each.hooks())

    @property
    def is_empty(self) -> bool:
        """Whether nothing is required."""
        return not self.gates and not self.gated and self.network == NetworkRules()


def policy_of(layers: Sequence[Layer], registry: Registry) -> Policy:
    """Return what layers require together."""
    active = registry.resolve(layer.refs(registry) for layer in layers)
    return Policy(
        tuple(each for each in active if each.capability.is_policy),
        needing_approval(tool for layer in layers for tool in layer.tools).union(
            *(layer.gated for layer in layers)
        ),
        combine(layer.network for layer in layers),
        approvers_of(active),
        frozenset(check for each in active for check in each.checks()),
        any(each.watches_data() for each in active),
    )


def loosens(before: Policy, after: Policy, registry: Registry) -> bool:
    """Whether something that the first policy refuses or asks about passes the second."""
    if not after.network.within(before.network) or not after.approvers.within(before.approvers):
        return True
    if not before.checks <= after.checks or not set(before.hooks()) <= set(after.hooks()):
        return True
    if before.watches_data and not after.watches_data:
        return True
    return any(before.asks(tool) and not after.asks(tool) for tool in _tools(registry))


def _tools(registry: Registry) -> Iterator[Tool]:
    """Yield every tool of the server, and one for each combination of hints, as others may be discovered."""
    for capability in registry.all():
        yield from capability.tools(None)
    for readonly, destructive, open_world in product((True, False), repeat=3):
        hints = ToolHints(readonly=readonly, destructive=destructive, open_world=open_world)
        yield Tool("", "", {}, _never, hints)


async def _never(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    raise NotImplementedError
