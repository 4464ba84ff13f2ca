"""Who may loosen the policies of an agent or a session's copy: approvals, and hosts that tools may reach."""

from __future__ import annotations

from perdure.app.context import App
from perdure.capabilities.layers import agent_layer, harness_layer, read_layers
from perdure.capabilities.policy import Policy, loosens, policy_of
from perdure.domain.accounts import RANK, Caller
from perdure.domain.errors import Forbidden
from perdure.store.agent_versions import creator_of
from perdure.store.agents import AgentRow
from perdure.store.database import Tx
from perdure.store.harnesses import harness_chain
from perdure.store.sessions import SessionRow


async def check_policy_kept(app: App, tx: Tx, caller: Caller, before: AgentRow, after: AgentRow) -> None:
    """Check that the caller may change an agent's policies as the change does.

    Every member may change agents, also those that other members' sessions run. Only the agent's creator and
    admins may loosen its policies, including those that it has from its harness, or free the name of an agent
    that has policies: another agent could take it.

    Raises:
        Forbidden: the change loosens the agent's policies.
    """
    if RANK[caller.role] >= RANK["admin"]:
        return
    freed = before.status == "active" and (after.status != "active" or after.name != before.name)
    if not freed and (before.config, before.harness_id) == (after.config, after.harness_id):
        return
    old = await _policy(app, tx, before)
    if old.is_empty:
        return
    if not freed and not loosens(old, await _policy(app, tx, after), app.registry):
        return
    if await creator_of(tx, before.org_id, before.id) == caller.user_id:
        return
    action = "archive, delete or rename it" if freed else "loosen its policies"
    raise Forbidden(
        f"only the creator of the agent {before.name!r} and admins may {action}, because it has policies "
        "(guardrails, approvals, or hosts that tools may reach): change a copy of it instead",
        code="policy_protected",
    )


async def check_fork_kept(app: App, tx: Tx, caller: Caller, source: SessionRow, copy: SessionRow) -> None:
    """Check that the caller may fork a session with the copy's agent.

    The copy has the session's files, databases and secrets. Its policies guard them, so only the session's
    owner and admins may choose an agent, or a version of it, with looser ones.

    Raises:
        Forbidden: the copy's policies are looser.
    """
    same = (copy.agent_id, copy.agent_version_id) == (source.agent_id, source.agent_version_id)
    if same or caller.user_id == source.owner_id or RANK[caller.role] >= RANK["admin"]:
        return
    old, new = [policy_of(await read_layers(tx, row), app.registry) for row in (source, copy)]
    if loosens(old, new, app.registry):
        raise Forbidden(
            "only the session's owner and admins may fork it with this agent, because its policies are "
            "looser (tool calls that need approval, or hosts that tools may reach): keep the session's agent",
            code="policy_protected",
        )


async def _policy(app: App, tx: Tx, row: AgentRow) -> Policy:
    chain = await harness_chain(tx, row.org_id, row.harness_id)
    return policy_of([*map(harness_layer, chain), agent_layer(row)], app.registry)
