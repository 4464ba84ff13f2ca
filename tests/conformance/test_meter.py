"""What a process knows of turns at once, while turns begin and end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perdure.domain.ids import OrgId, SessionId, UserId
from perdure.domain.limits import LimitsPair, LimitValues
from perdure.settings import Settings
from perdure.store.database import Body
from perdure.store.meter import Meter
from perdure.wiring import open_parts

ORG, OWNER, SESSION = OrgId("org_1"), UserId("user_1"), SessionId("session_1")


class Meddling:
    """The real database; a turn ends and the session's next one begins right after the counts are read."""

    def __init__(self, database: Any, meter: Meter) -> None:
        self._database, self._meter = database, meter

    async def read(self, body: Body[Any]) -> Any:
        found = await self._database.read(body)
        self._meter.left(ORG, SESSION)
        assert self._meter.may_begin(ORG, SESSION, OWNER)
        return found


async def test_a_turn_that_begins_while_counts_are_read_is_not_forgotten(
    database_url: str, tmp_path: Path
) -> None:
    async with open_parts(Settings(data=str(tmp_path), database_url=database_url)) as parts:
        meter = Meter(LimitsPair(LimitValues(active_turns=1)))
        await meter.refresh(parts.database, parts.app.now())
        assert meter.may_begin(ORG, SESSION, OWNER)
        meter.settle(ORG, SESSION)
        database: Any = Meddling(parts.database, meter)
        await meter.refresh(database, parts.app.now())
        assert meter.pending(ORG) == [OWNER]
        assert not meter.may_begin(ORG, SessionId("session_2"), OWNER)
