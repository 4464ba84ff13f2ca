"""Sessions that the sweep looks for, on both databases."""

from __future__ import annotations

from pathlib import Path

from perdure.app.accounts import bootstrap
from perdure.app.sessions import create_session
from perdure.domain.sessions import CreateSession
from perdure.settings import Settings
from perdure.store.working_sessions import ahead
from perdure.wiring import open_parts
from tests.conformance.places import Place

NOW, HOUR = 1_800_000_000_000_000, 3_600_000_000
PARK = (
    "UPDATE sessions SET status = 'active', resting = 1, updated_at = ?, wake_at = ?"
    " WHERE org_id = ? AND title = ?"
)


async def test_what_a_clock_ahead_has_parked_comes_before_what_has_waited_since(
    place: Place, tmp_path: Path
) -> None:
    url = place.url if place.kind == "postgres" else ""
    async with open_parts(Settings(data=str(tmp_path / "data"), database_url=url)) as parts:
        owner = await bootstrap(parts.app)
        far = ""
        # All rows were changed by the clock ahead; all but one turn were parked again by the right one.
        for number in range(5):
            session = await create_session(parts.app, owner, CreateSession(title=str(number)))
            wake_at = NOW + 1_000_000
            if number == 3:
                far, wake_at = session.id, NOW + HOUR + 1_000_000
            args = NOW + HOUR, wake_at, owner.organization_id, str(number)
            assert await parts.app.database.write(lambda tx, args=args: tx.run(PARK, *args)) == 1
        found = await parts.app.database.read(lambda tx: ahead(tx, NOW, limit=1))
        assert found == [(owner.organization_id, far)]
