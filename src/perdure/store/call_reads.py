"""What every model call reads anew of its session, in one statement: it is a round trip on PostgreSQL."""

from __future__ import annotations

from perdure.domain.ids import AgentId
from perdure.domain.spending import Standing
from perdure.store.budgets import STANDING_COLUMNS, read_standings, standings_query
from perdure.store.crypto import Vault
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow
from perdure.store.storage import SECRETS, opened_secrets

_UNION = f"{SECRETS.format(more=', NULL' * STANDING_COLUMNS)} UNION ALL "


async def secrets_and_standings(
    tx: Tx, vault: Vault, row: SessionRow, agent_id: AgentId | None
) -> tuple[dict[str, str], tuple[Standing, ...]]:
    """Return what `open_secrets` and `standings_of` do. There are rarely many of either."""
    sql, args = standings_query(row, agent_id, tx.dialect, "NULL, NULL, ")
    found = await tx.all(_UNION + sql, row.id, row.org_id, *args)
    secrets = [each for each in found if each[0] is not None]
    standings = [each[2:] for each in found if each[0] is None]
    return (
        await opened_secrets(tx, vault, row.org_id, row.id, secrets),
        read_standings(standings, row, tx.dialect),
    )
