"""Checks what the configurations of capabilities name: MCP servers, skills, agents and models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import UnsetType

from perdure.app.context import App
from perdure.app.mcp_checks import check_mcp_refs
from perdure.app.output_schemas import checked_output
from perdure.app.skill_checks import check_skill_refs
from perdure.domain.errors import InvalidInput, NotFound
from perdure.domain.guardrail_checks import GUARDRAILS, GuardrailsConfig, JudgeCheck, ModerationCheck
from perdure.domain.guardrail_config import check_config, read_config
from perdure.domain.ids import OrgId, check_id
from perdure.domain.subagents import SUBAGENTS, Blueprint, Subagents
from perdure.domain.tools import CapabilityRef
from perdure.store.agents import agent_by_ref
from perdure.store.database import Tx
from perdure.store.providers import get_model, get_provider

CODE = "invalid_capability_config"


async def check_configs(
    app: App, refs: Iterable[CapabilityRef] | UnsetType, field: str = "capabilities"
) -> None:
    """Check what is in configurations that match their schemas, before the transaction that stores them.

    Raises:
        InvalidInput: a guardrail, a blueprint's schema of answers, or one of its capabilities is not valid.
    """
    for where, config in _configs_of(app, refs, field, GUARDRAILS):
        await asyncio.to_thread(check_config, config, where)
    for where, config in _subagents_of(app, refs, field):
        for name, blueprint in config.blueprints.items():
            own = f"{where}.blueprints.{name}"
            await checked_output(blueprint.output_schema, None, f"{own}.")
            app.registry.check(blueprint.capabilities, f"{own}.capabilities")
            await check_configs(app, blueprint.capabilities, f"{own}.capabilities")


async def check_refs(
    app: App,
    tx: Tx,
    org_id: OrgId,
    refs: Iterable[CapabilityRef] | UnsetType,
    field: str = "capabilities",
) -> None:
    """Check what capabilities name. Their configurations are checked.

    Raises:
        InvalidInput: an MCP server, a skill, an agent, a model or a provider does not exist.
    """
    if isinstance(refs, UnsetType):
        return
    refs = tuple(refs)
    await check_mcp_refs(app, tx, org_id, refs, field)
    await check_skill_refs(tx, org_id, refs, field)
    for where, config in _configs_of(app, refs, field, GUARDRAILS):
        await _check_services(tx, org_id, read_config(config, where), where)
    for where, config in _subagents_of(app, refs, field):
        for index, name in enumerate(config.agents):
            await _check_agent(tx, org_id, name, f"{where}.agents[{index}]")
        for name, blueprint in config.blueprints.items():
            await _check_blueprint(app, tx, org_id, blueprint, f"{where}.blueprints.{name}")


def _subagents_of(
    app: App, refs: Iterable[CapabilityRef] | UnsetType, field: str
) -> Iterator[tuple[str, Subagents]]:
    """The configurations of sub-agents among these capabilities, with their paths. Raises InvalidInput."""
    for where, config in _configs_of(app, refs, field, SUBAGENTS):
        try:
            yield where, msgspec.convert(config, Subagents)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"`{where}`: {error}", code=CODE, field=where) from None


def _configs_of(
    app: App, refs: Iterable[CapabilityRef] | UnsetType, field: str, capability_id: str
) -> Iterator[tuple[str, Any]]:
    """The configurations of one capability among these, with their paths."""
    for index, ref in enumerate(() if isinstance(refs, UnsetType) else refs):
        capability = None if ref.config is None else app.registry.get(ref.ref)
        if capability is not None and capability.id == capability_id:
            yield f"{field}[{index}].config", ref.config


async def _check_services(tx: Tx, org_id: OrgId, config: GuardrailsConfig, where: str) -> None:
    for index, check in enumerate(config.checks):
        path = f"{where}.checks[{index}]"
        if isinstance(check, JudgeCheck) and check.model_id is not None:
            await _check_model(tx, org_id, check.model_id, f"{path}.model_id")
        if isinstance(check, ModerationCheck) and check.provider_id is not None:
            await _check_provider(tx, org_id, check.provider_id, f"{path}.provider_id")


async def _check_provider(tx: Tx, org_id: OrgId, provider_id: str, where: str) -> None:
    try:
        await get_provider(tx, org_id, check_id(provider_id, "provider", where))
    except NotFound:
        raise InvalidInput(
            f"`{where}`: no provider has the id {provider_id!r}; see GET /v1/providers",
            code=CODE,
            field=where,
        ) from None


async def _check_blueprint(app: App, tx: Tx, org_id: OrgId, blueprint: Blueprint, where: str) -> None:
    if blueprint.agent is not None:
        await _check_agent(tx, org_id, blueprint.agent, f"{where}.agent")
    if blueprint.model_id is not None:
        await _check_model(tx, org_id, blueprint.model_id, f"{where}.model_id")
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
