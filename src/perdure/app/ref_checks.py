"""Checks what the configurations of capabilities name: MCP servers, agents and models."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import UnsetType

from perdure.app.context import App
from perdure.app.mcp_checks import check_mcp_refs
from perdure.app.output_schemas import checked_output
from perdure.domain.errors import InvalidInput, NotFound
from perdure.domain.ids import OrgId, check_id
from perdure.domain.subagents import SUBAGENTS, Blueprint, Subagents
from perdure.domain.tools import CapabilityRef
from perdure.store.agents import agent_by_ref
from perdure.store.database import Tx
from perdure.store.providers import get_model

CODE = "invalid_capability_config"


async def check_refs(
    app: App,
    tx: Tx,
    org_id: OrgId,
    refs: Iterable[CapabilityRef] | UnsetType,
    field: str = "capabilities",
) -> None:
    """Check what capabilities name. Their configurations match their schemas.

    Raises:
        InvalidInput: an MCP server, an agent or a model does not exist.
    """
    if isinstance(refs, UnsetType):
        return
    refs = tuple(refs)
    await check_mcp_refs(app, tx, org_id, refs, field)
    for index, ref in enumerate(refs):
        capability = None if ref.config is None else app.registry.get(ref.ref)
        if capability is not None and capability.id == SUBAGENTS:
            await _check_subagents(app, tx, org_id, ref, f"{field}[{index}].config")


async def _check_subagents(app: App, tx: Tx, org_id: OrgId, ref: CapabilityRef, where: str) -> None:
    try:
        config = msgspec.convert(ref.config, Subagents)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"`{where}`: {error}", code=CODE, field=where) from None
    for index, name in enumerate(config.agents):
        await _check_agent(tx, org_id, name, f"{where}.agents[{index}]")
    for name, blueprint in config.blueprints.items():
        await _check_blueprint(app, tx, org_id, blueprint, f"{where}.blueprints.{name}")


async def _check_blueprint(app: App, tx: Tx, org_id: OrgId, blueprint: Blueprint, where: str) -> None:
    if blueprint.agent is not None:
        await _check_agent(tx, org_id, blueprint.agent, f"{where}.agent")
    if blueprint.model_id is not None:
        await _check_model(tx, org_id, blueprint.model_id, f"{where}.model_id")
    if blueprint.output_schema is not None:
        await checked_output(blueprint.output_schema, None, f"{where}.")
    app.registry.check(blueprint.capabilities, f"{where}.capabilities")
    await check_refs(app, tx, org_id, blueprint.capabilities, f"{where}.capabilities")


async def _check_agent(tx: Tx, org_id: OrgId, ref: str, where: str) -> None:
    if await agent_by_ref(tx, org_id, ref) is None:
        raise InvalidInput(
            f"`{where}`: no agent has the id or name {ref[:60]!r}; see GET /v1/agents", code=CODE, field=where
        )


async def _check_model(tx: Tx, org_id: OrgId, model_id: str, where: str) -> None:
    try:
        await get_model(tx, org_id, check_id(model_id, "model", where))
    except NotFound:
        raise InvalidInput(
            f"`{where}`: no model has the id {model_id!r}; see GET /v1/models", code=CODE, field=where
        ) from None
