"""Layers into one: harness (parents first), agent, session.

Capabilities, prompts, tools, and the model to call.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.capabilities.assembly import BoundTool, Section
from perdure.capabilities.layers import Layers, model_of
from perdure.capabilities.port import Behaviour
from perdure.capabilities.registry import Active, Registry
from perdure.domain.errors import InvalidInput
from perdure.domain.messages import Controls
from perdure.domain.network import NetworkRules
from perdure.domain.tools import ClientSideTool
from perdure.domain.turn import TurnRules
from perdure.engine.context import Engine
from perdure.llm.driver import Driver, ToolSpec
from perdure.store.database import Tx
from perdure.store.providers import ModelRow, ProviderRow, open_secrets


class Assembly(Struct, frozen=True):
    """What the layers come to, the model aside."""

    system: str
    specs: tuple[ToolSpec, ...]
    bound: dict[str, BoundTool]
    client: dict[str, ClientSideTool]
    features: tuple[str, ...]
    rules: TurnRules
    parallel_tool_calls: bool | None
    behaviour: Behaviour = Behaviour()
    network: NetworkRules = NetworkRules()
    sections: tuple[Section, ...] = ()
    active: tuple[Active, ...] = ()


class ModelChoice(Struct, frozen=True):
    """The model that a call goes to."""

    model: ModelRow
    provider: ProviderRow
    driver: Driver


def assemble(layers: Layers, registry: Registry, max_iterations: int) -> Assembly:
    """Merge the layers.

    Raises:
        InvalidInput: two tools have the same name.
    """
    session = layers.session.config_struct()
    agent = None if layers.agent is None else layers.agent.config_struct()
    merged = layers.merged(registry)
    limit = session.max_iterations or (agent.max_iterations if agent else None) or max_iterations
    parallel = session.parallel_tool_calls
    if parallel is None and agent is not None:
        parallel = agent.parallel_tool_calls
    behaviour = merged.behaviour
    if parallel is None:
        parallel = behaviour.parallel_tool_calls
    gated = frozenset(name for name, each in merged.bound.items() if each.gated)
    rules = TurnRules(
        max_iterations=limit,
        client_tools=frozenset(merged.client),
        gated=gated,
        loop_limit=behaviour.loop_limit,
    )
    return Assembly(
        merged.system,
        merged.specs(),
        merged.bound,
        merged.client,
        merged.features(),
        rules,
        parallel,
        behaviour,
        merged.network,
        merged.sections,
        merged.active,
    )


async def choose_model(
    engine: Engine, tx: Tx, layers: Layers, controls: Controls | None
) -> ModelChoice | None:
    """The model for the next call, or None when none is configured.

    Raises:
        InvalidInput: the provider's settings cannot be used.
    """
    found = await model_of(tx, layers, controls.model_id if controls else None)
    if found is None:
        return None
    model, provider = found
    secrets = await open_secrets(engine.vault, tx, provider)
    try:
        driver = engine.drivers(provider, secrets)
    except InvalidInput as error:
        # It was fine when it was set up; the environment's key is one thing that nobody looked at then.
        raise InvalidInput(
            f"the provider {provider.name!r} cannot be used: {error.message}", code="provider_misconfigured"
        ) from None
    return ModelChoice(model, provider, driver)
