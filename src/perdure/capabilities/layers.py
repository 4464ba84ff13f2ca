"""The rows that a session stands on: harness (parents first), agent, session.

And the model that they come to.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.capabilities.assembly import Layer, Merged, agent_layer, harness_layer, merge_layers
from perdure.capabilities.registry import Registry
from perdure.store.agent_versions import get_agent_at
from perdure.store.agents import AgentRow
from perdure.store.database import Tx
from perdure.store.harnesses import HarnessRow, harness_chain
from perdure.store.providers import ModelRow, ProviderRow, usable_model
from perdure.store.sessions import SessionRow, standing_approvals


class Layers(Struct, frozen=True):
    """The rows that a session stands on."""

    session: SessionRow
    harnesses: tuple[HarnessRow, ...]
    agent: AgentRow | None
    standing: dict[str, str] = {}
    """Decisions that hold for every call of a tool in this session, by the tool's name."""

    def merged(self, registry: Registry) -> Merged:
        """What they come to.

        Raises:
            InvalidInput: two tools have the same name.
        """
        own = self.session.config_struct()
        stack = [harness_layer(row) for row in self.harnesses]
        stack += [] if self.agent is None else [agent_layer(self.agent)]
        stack.append(
            Layer("session", None, own.system_prompt, own.capabilities, own.tools, own.network_access)
        )
        return merge_layers(stack, registry, self.standing)


async def load_layers(tx: Tx, session: SessionRow) -> Layers:
    """Read the rows. Raises NotFound when one of them is gone."""
    harnesses = await harness_chain(tx, session.org_id, session.harness_id)
    agent = None
    if session.agent_id is not None:
        agent = await get_agent_at(tx, session.org_id, session.agent_id, session.agent_version_id)
    return Layers(session, tuple(harnesses), agent, await standing_approvals(tx, session.id))


async def model_of(tx: Tx, layers: Layers, wanted: str | None = None) -> tuple[ModelRow, ProviderRow] | None:
    """The model for the next call, and its provider; None when none is configured.

    The strongest claim comes first: the message's (`wanted`), session, agent, harness, organization. A model
    that was deleted or switched off gives way to the next claim.
    """
    org_id = layers.session.org_id
    claims = [wanted, layers.session.model_id, layers.agent.default_model_id if layers.agent else None]
    claims += [row.default_model_id for row in reversed(layers.harnesses)]
    for claim in claims:
        found = None if claim is None else await usable_model(tx, org_id, claim)
        if found is not None:
            return found
    return await usable_model(tx, org_id, None)
