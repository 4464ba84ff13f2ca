"""What every model call reads anew, in one statement: it is a round trip on PostgreSQL.

The rows that a statement finds have different shapes. So each shape has columns of its own, which are NULL in
the rows of the others; the first column says which shape a row has.
"""

from __future__ import annotations

from functools import lru_cache

from msgspec import Struct

from perdure.domain.decisions import StandingDecision
from perdure.domain.errors import NotFound
from perdure.domain.ids import ModelId
from perdure.domain.spending import Standing
from perdure.store.accounts import model_ids
from perdure.store.agents import AgentRow
from perdure.store.budgets import STANDING_TYPES, read_standings, standings_query
from perdure.store.crypto import Vault
from perdure.store.database import Row, Tx
from perdure.store.harnesses import HarnessRow
from perdure.store.providers import USABLE, ModelRow, ProviderRow, UsableModel
from perdure.store.rows import columns
from perdure.store.sessions import SessionRow
from perdure.store.standing_approvals import STANDING_APPROVALS, standing_decision
from perdure.store.storage import SECRETS, opened_secrets


class CallReads(Struct, frozen=True):
    """What was read for a model call.

    Attributes:
        harness, agent: the session's; the agent as it is now, whatever version the session runs.
        model: of the models that the message, the session, the agent, the harness and the organization name,
            the first that may be called.
        fallbacks: the organization's fallback models.
        approvals: the standing decisions, by the tool's name.
        secrets: the session's secrets, by name.
        standings: the budgets that the call is charged to.
    """

    harness: HarnessRow
    agent: AgentRow | None
    model: UsableModel | None
    fallbacks: tuple[ModelId, ...]
    approvals: dict[str, StandingDecision]
    secrets: dict[str, str]
    standings: tuple[Standing, ...]


_LAYER_ROWS: tuple[tuple[str, type[Struct]], ...] = (
    ("h", HarnessRow),
    ("a", AgentRow),
    ("m", ModelRow),
    ("p", ProviderRow),
)
_AGENT = 1 + len(HarnessRow.__struct_fields__)
_MODEL = _AGENT + len(AgentRow.__struct_fields__)
"""Where the columns of the agent and those of the model begin, after the kind and the harness."""
_LAYERS = sum(len(row.__struct_fields__) for _, row in _LAYER_ROWS) + 1
"""The number of columns of the layers, with the organization's fallbacks."""
_APPROVALS, _SECRETS = 4, 2
_TYPES = (*["TEXT"] * _APPROVALS, "TEXT", "BYTEA", *STANDING_TYPES)
"""The types of the columns after those of the layers."""
# SQLite cannot sort a subquery by columns of the outer query, so the rank is a column of its own.
_BEST = (
    "(SELECT ranked.id FROM (SELECT m.id, CASE m.id WHEN ? THEN 0 WHEN ? THEN 1"
    " WHEN a.default_model_id THEN 2 WHEN h.default_model_id THEN 3 ELSE 4 END AS place"
    f" {USABLE.format(org='o.id')} AND m.id IN (?, ?, a.default_model_id, h.default_model_id,"
    " o.default_model_id)) AS ranked ORDER BY ranked.place LIMIT 1)"
)
_READ_LAYERS = (
    f"SELECT 'layers', {', '.join(columns(row, alias=alias) for alias, row in _LAYER_ROWS)},"
    f" o.fallback_models, {', '.join(f'CAST(NULL AS {kind})' for kind in _TYPES)}"
    " FROM harnesses h JOIN organizations o ON o.id = h.org_id"
    " LEFT JOIN agents a ON a.id = ? AND a.org_id = h.org_id"
    f" LEFT JOIN models m ON m.org_id = h.org_id AND m.id = {_BEST}"
    " LEFT JOIN providers p ON p.id = m.provider_id AND p.org_id = h.org_id"
    " WHERE h.id = ? AND h.org_id = ?"
)


def _nulls(count: int) -> str:
    return ", NULL" * count


_BEFORE_APPROVALS = _nulls(_LAYERS)
_BEFORE_SECRETS = _nulls(_LAYERS + _APPROVALS)
_BEFORE_STANDINGS = f"'standing'{_nulls(_LAYERS + _APPROVALS + _SECRETS)}, "


@lru_cache(maxsize=256)
def _statement(standings: str) -> str:
    more = len(STANDING_TYPES)
    approvals = STANDING_APPROVALS.format(
        first=f"'approval'{_BEFORE_APPROVALS}, ", more=_nulls(_SECRETS + more)
    )
    secrets = SECRETS.format(first=f"'secret'{_BEFORE_SECRETS}, ", more=_nulls(more))
    return f"{_READ_LAYERS} UNION ALL {approvals} UNION ALL {secrets} UNION ALL {standings}"


async def read_call(
    tx: Tx, vault: Vault, row: SessionRow, own: SessionRow, requested: str | None
) -> CallReads:
    """Read what a session's next model call needs.

    Args:
        row: the session as if the agent that makes the call were its own.
        own: the session as it is.
        requested: the model that the message asks for.

    Raises:
        NotFound: the harness or the agent is missing.
    """
    standings, args = standings_query(own, row.agent_id, tx.dialect, _BEFORE_STANDINGS)
    models = (requested, row.model_id)
    found = await tx.all(
        _statement(standings),
        *(row.agent_id, *models, *models, row.harness_id, row.org_id),
        *(own.id, own.id, own.org_id),
        *args,
    )
    layers = next((each for each in found if each[0] == "layers"), None)
    if layers is None:
        raise NotFound("harness")
    first = 1 + _LAYERS
    approvals = dict(standing_decision(each[first:]) for each in found if each[0] == "approval")
    secrets = [each[first + _APPROVALS :] for each in found if each[0] == "secret"]
    charged = [each[first + _APPROVALS + _SECRETS :] for each in found if each[0] == "standing"]
    harness, agent, model = _layers_of(layers, row)
    return CallReads(
        harness,
        agent,
        model,
        model_ids(layers[_LAYERS]),
        approvals,
        await opened_secrets(tx, vault, own.org_id, own.id, secrets),
        read_standings(charged, own, tx.dialect),
    )


def _layers_of(found: Row, row: SessionRow) -> tuple[HarnessRow, AgentRow | None, UsableModel | None]:
    """Split the row of the layers. Raises NotFound: the agent is missing."""
    harness, agent, model = found[1:_AGENT], found[_AGENT:_MODEL], found[_MODEL:]
    if row.agent_id is not None and agent[0] is None:
        raise NotFound("agent")
    return (
        HarnessRow(*harness),
        None if row.agent_id is None else AgentRow(*agent),
        None if model[0] is None else UsableModel.of(model),
    )
