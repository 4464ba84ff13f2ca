"""Upgrades lose nothing (promise P11): what older releases left, in every state, comes to its end with
the present code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server import Server
from tests.talk import Json
from tests.upgrade.archive import unpack
from tests.upgrade.checks import check_session
from tests.upgrade.model import PlayedModel, played_model
from tests.upgrade.place import Kept, Place
from tests.upgrade.releases import ENGINES, RELEASES, Engine, Release, archive_of, manifest_of, tools_for
from tests.upgrade.state import State
from tests.upgrade.states import STATES, states_of

DATABASES = pytest.mark.parametrize(
    ("release", "engine"),
    [
        pytest.param(release, engine, id=f"{release.version}-{engine}")
        for release in RELEASES
        for engine in ENGINES
    ],
)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, engine: Engine) -> str:
    """An empty database of that engine: the URL of a PostgreSQL, or nothing for SQLite in the data folder."""
    return str(request.getfixturevalue("empty_postgres_url")) if engine == "postgres" else ""


def read(release: Release, engine: Engine) -> Json:
    """The manifest."""
    found: Json = json.loads(manifest_of(release, engine).read_text())
    return found


@DATABASES
async def test_every_session_that_a_release_left_comes_to_its_end(
    release: Release, engine: Engine, database_url: str, tmp_path: Path
) -> None:
    manifest, data = read(release, engine), tmp_path / "data"
    async with played_model(holds=False) as model:
        move = {"sql": manifest["move"]["sql"], "values": [model.url, manifest["move"]["from"]]}
        settings = {**manifest["settings"], **tools_for(release, tmp_path / "site")}
        logs = await unpack(archive_of(release, engine), data, database_url, move)
        async with (
            Server(data, database_url=database_url, environment=settings) as server,
            httpx.AsyncClient(base_url=server.url, timeout=30) as http,
        ):
            http.headers.update(manifest["login"])
            sessions = {name: Kept(**kept) for name, kept in manifest["sessions"].items()}
            async with Place(http, model, sessions) as place:
                await bring_to_their_ends(place, states_of(release), manifest["states"])
                await all_of(
                    {name: check_session(place, name, logs.get(each.id)) for name, each in sessions.items()}
                )
        assert "Traceback" not in server.log.read_text()
        check_model(model, manifest["key"])


async def bring_to_their_ends(place: Place, states: list[State], kept: Json) -> None:
    """End every state, all at once."""
    await all_of({each.name: each.end(place, kept[each.name]["facts"]) for each in states})


async def all_of(work: dict[str, Coroutine[Any, Any, None]]) -> None:
    """Do all of it at once, and tell of everything that goes wrong, by name."""
    done = await asyncio.gather(*work.values(), return_exceptions=True)
    failed: dict[str, Exception] = {}
    for name, outcome in zip(work, done, strict=True):
        if isinstance(outcome, Exception):
            outcome.add_note(f"in {name!r}")
            failed[name] = outcome
        elif outcome is not None:
            raise outcome
    if failed:
        raise ExceptionGroup(f"not brought to its end: {', '.join(failed)}", list(failed.values()))


def check_model(model: PlayedModel, key: str) -> None:
    """The providers' keys could be opened, and no step of a script was asked for twice."""
    assert {each.key for each in model.asked} >= {key}
    asked = [(each.name, each.step, each.messages) for each in model.asked]
    twice = [each[:2] for number, each in enumerate(asked) if each in asked[:number]]
    assert twice == []


@DATABASES
def test_a_release_has_a_database_with_every_state_that_it_can_be_in(
    release: Release, engine: Engine
) -> None:
    manifest = read(release, engine)
    assert (manifest["release"], manifest["commit"]) == (release.version, release.commit)
    assert set(manifest["states"]) == {state.name for state in states_of(release)}
    assert archive_of(release, engine).stat().st_size < 300_000


def test_no_two_states_have_one_name() -> None:
    assert len({state.name for state in STATES}) == len(STATES)
