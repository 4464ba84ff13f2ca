"""Edited arguments: what a person may replace a waiting call's arguments by."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.app.context import App
from perdure.capabilities.guard_services import Asker
from perdure.capabilities.guarding import Guard
from perdure.capabilities.layers import SessionLayers, acting, load_layers, read_layers
from perdure.capabilities.model_choice import find_model
from perdure.capabilities.resolve import ResolvedAgent, resolve_session
from perdure.domain.errors import InvalidInput, PerdureError, TooLarge
from perdure.domain.files import Content
from perdure.domain.ids import OrgId, SessionId
from perdure.domain.messages import JsonObject
from perdure.domain.nesting import MAX_NESTING, is_deep
from perdure.domain.redaction import Redactor
from perdure.domain.turn import TurnState
from perdure.domain.turn_queries import offered_tools
from perdure.store.database import Tx
from perdure.store.parked_turns import read_turn
from perdure.store.providers import UsableModel
from perdure.store.sessions import SessionRow, get_session
from perdure.store.storage import open_secrets
from perdure.store.tool_lists import read_tool_list

INVALID = "invalid_edited_arguments"
"""The error code of arguments that do not fit the tool's schema."""

MAX_EDITED = 512 * 1024
"""Bytes of edited arguments."""


class Edit(Struct, frozen=True):
    """Edited arguments of a call of a tool; `field` is where the request has them."""

    tool_name: str
    arguments: JsonObject
    field: str


class _Found(Struct, frozen=True):
    layers: SessionLayers
    offered: Content | None
    secrets: dict[str, str]


async def offered_content(tx: Tx, row: SessionRow, state: TurnState) -> Content | None:
    """Return the stored list of the discovered tools that a waiting turn was offered."""
    digest = offered_tools(state)
    return None if digest is None else await read_tool_list(tx, row.org_id, row.id, digest)


async def waiting_agent(app: App, org_id: OrgId, session_id: SessionId) -> ResolvedAgent:
    """Resolve a waiting session's agent, with the tools that its turn was offered. Raises PerdureError."""
    agent, _ = await _waiting(app, org_id, session_id)
    return agent


async def _waiting(app: App, org_id: OrgId, session_id: SessionId) -> tuple[ResolvedAgent, Redactor]:
    """As `waiting_agent`, with what redacts the session's secrets."""

    async def work(tx: Tx) -> _Found:
        row = await get_session(tx, org_id, session_id)
        state = await read_turn(tx, row, app.turns)
        offered = await offered_content(tx, row, state)
        secrets = await open_secrets(tx, app.vault, row.org_id, row.id)
        return _Found(await load_layers(tx, acting(row, state)), offered, secrets)

    found = await app.database.read(work, long=True)
    redactor = Redactor(found.secrets)
    agent = await resolve_session(
        found.layers,
        app.registry,
        now=app.now,
        redactor=redactor,
        model=None,
        offered=found.offered,
        secrets=found.secrets,
        private=app.private_addresses,
    )
    return agent, redactor


def parameters_of(agent: ResolvedAgent, tool_name: str) -> JsonObject | None:
    """Return the JSON Schema of a tool's arguments; None if the agent has no such tool."""
    bound, client = agent.bound.get(tool_name), agent.client.get(tool_name)
    if bound is not None:
        return bound.tool.parameters
    return None if client is None else client.parameters


async def check_edits(app: App, org_id: OrgId, session_id: SessionId, edits: Sequence[Edit]) -> None:
    """Check edited arguments against the tools' schemas, outside any transaction.

    Raises:
        TooLarge: they are over the limit.
        InvalidInput: they do not fit the schema, a guardrail forbids them, or the tool's arguments cannot be
            edited.
    """
    for edit in edits:
        if len(msgspec.json.encode(edit.arguments)) > MAX_EDITED:
            raise TooLarge(
                f"`{edit.field}` has more than {MAX_EDITED} bytes: shorten it", code="arguments_too_large"
            )
        if is_deep(edit.arguments):
            raise InvalidInput(
                f"`{edit.field}` is nested more than {MAX_NESTING} levels deep", field=edit.field
            )
    if not edits:
        return
    agent, redactor = await _waiting(app, org_id, session_id)
    for edit in edits:
        await _check(app, agent, (org_id, session_id), edit)
        await _check_guardrails(app, agent, redactor, org_id, session_id, edit)


async def _check(app: App, agent: ResolvedAgent, owners: tuple[str, ...], edit: Edit) -> None:
    parameters, bound = parameters_of(agent, edit.tool_name), agent.bound.get(edit.tool_name)
    if parameters is None:
        raise _refused(edit, f"the agent no longer has the tool {edit.tool_name!r}", INVALID)
    if bound is not None and bound.tool.secret_arguments:
        why = f"the tool {edit.tool_name!r} takes secrets, which must not be in the log"
        raise _refused(edit, why, "secret_arguments")
    try:
        await app.arguments.check(owners, parameters, edit.arguments)
    except PerdureError as error:
        if error.retryable:
            raise
        raise InvalidInput(f"`{edit.field}`: {error.message}", code=INVALID, field=edit.field) from None


async def _check_guardrails(
    app: App, agent: ResolvedAgent, redactor: Redactor, org_id: OrgId, session_id: SessionId, edit: Edit
) -> None:
    """Check the arguments like the model's, but for the approval that is given now."""
    if not agent.guardrails.has("tool_use"):
        return

    async def own(tx: Tx) -> UsableModel | None:
        row = await get_session(tx, org_id, session_id)
        return await find_model(tx, org_id, await read_layers(tx, row))

    guard = Guard(agent.guardrails, app.guard, org_id, Asker(own), redactor)
    verdict = await guard.value("tool_use", edit.arguments, edit.tool_name)
    if verdict.changed:
        reason = next(hit.reason_code for hit in verdict.hits if hit.action in ("block", "replace"))
        raise _refused(edit, f"a guardrail forbids them (reason: {reason})", "guardrail_blocked")


def _refused(edit: Edit, why: str, code: str) -> InvalidInput:
    return InvalidInput(
        f"`{edit.field}`: {why}: decide without new arguments, or reject the call",
        code=code,
        field=edit.field,
    )
