"""The circuit breakers of an organization's models, as the processes have reported them."""

from __future__ import annotations

from perdure.app.context import App
from perdure.domain.accounts import Caller, require
from perdure.domain.errors import NotFound
from perdure.domain.ids import ModelId
from perdure.domain.processes import BreakerReport, CircuitBreaker, CircuitBreakers, ClosedBreaker
from perdure.domain.times import maybe_rfc3339, to_rfc3339
from perdure.store.database import Tx
from perdure.store.processes import ProcessRow, all_processes
from perdure.store.providers import (
    ModelRow,
    get_model,
    get_provider,
    list_models,
    list_providers,
    update_provider,
)


async def all_breakers(app: App, caller: Caller) -> CircuitBreakers:
    """List the circuit breakers of the organization's models that fail; admins only. Raises Forbidden."""
    require(caller, "admin")
    found = await app.database.read(lambda tx: _breakers(tx, caller))
    return CircuitBreakers(tuple(found), len(found))


async def _breakers(tx: Tx, caller: Caller) -> list[CircuitBreaker]:
    reported = [
        (row, each)
        for row in await all_processes(tx)
        if row.state != "stopped" and row.breakers != "[]"
        for each in row.breaker_reports()
    ]
    if not reported:
        return []
    models = {model.id: model for model in await list_models(tx, caller.organization_id)}
    versions = {row.id: row.updated_at for row in await list_providers(tx, caller.organization_id)}
    return [
        _on_wire(row, each, model)
        for row, each in reported
        # A breaker from before its provider was changed, or closed, counts no more.
        if (model := models.get(each.model_id)) and versions.get(model.provider_id) == each.version
    ]


def _on_wire(row: ProcessRow, each: BreakerReport, model: ModelRow) -> CircuitBreaker:
    return CircuitBreaker(
        key=each.model_id,
        model=model.model_id,
        provider_id=model.provider_id,
        worker_id=row.process.id,
        state=each.state,
        failure_count=each.failures,
        success_count=0,
        last_error_code=each.code,
        updated_at=to_rfc3339(row.seen_at),
        opened_at=maybe_rfc3339(each.opened_at or None),
        half_open_at=maybe_rfc3339(each.until or None),
    )


_SEVERITY = ("closed", "half_open", "open")


async def read_breaker(app: App, caller: Caller, model_id: ModelId) -> CircuitBreaker:
    """Return the circuit breaker of a model, from the process where it is worst; admins only.

    Raises:
        NotFound: `circuit_breaker_not_found`: the model has not failed since its last answer.
        Forbidden.
    """
    require(caller, "admin")

    async def work(tx: Tx) -> list[CircuitBreaker]:
        await get_model(tx, caller.organization_id, model_id)
        return [each for each in await _breakers(tx, caller) if each.key == model_id]

    found = await app.database.read(work)
    if not found:
        raise NotFound("circuit breaker")
    return max(found, key=lambda each: _SEVERITY.index(each.state))


async def close_breaker(app: App, caller: Caller, model_id: ModelId) -> ClosedBreaker:
    """Close the circuit breakers of a model's provider, in all processes; admins only.

    It counts as a change of the provider, after which nothing that was seen of it before counts.

    Raises:
        Forbidden, NotFound.
    """
    require(caller, "admin")
    now = app.now()

    async def work(tx: Tx) -> ClosedBreaker:
        org_id = caller.organization_id
        model = await get_model(tx, org_id, model_id)
        provider = await get_provider(tx, org_id, model.provider_id)
        later = max(now, provider.updated_at + 1)
        await update_provider(tx, org_id, provider.id, {"updated_at": later})
        return ClosedBreaker(provider.id)

    return await app.database.write(work)
