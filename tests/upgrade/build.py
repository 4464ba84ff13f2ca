"""Builds the databases of a release, with that release's own code: `python -m tests.upgrade.build v0.1.0`.

The code comes from the commit in `releases.py` and runs as a real server, on SQLite and on PostgreSQL. The
script brings sessions into all states over HTTP, kills the server, and packs the database into `databases/`.
If the release's dependencies differ from the current ones, run it in that release's environment
(`make install` there).
"""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.postgres_server import PostgresServer, postgres_server
from tests.server import Server, post
from tests.talk import Json
from tests.upgrade.archive import SAFELY, pack
from tests.upgrade.model import PlayedModel, played_model
from tests.upgrade.place import Place
from tests.upgrade.releases import ENGINES, RELEASES, Engine, Release, archive_of, manifest_of, tools_for
from tests.upgrade.state import PHASES, State
from tests.upgrade.states import states_of

ROOT = Path(__file__).parents[2]
KEY = "played-model-key"
LONG = "3000000000"
"""Seconds that questions to users stay open: longer than these databases are used."""
SHORT_SECONDS = 90
"""How long an impatient server waits for users: longer than the build takes, and over before any test."""
RESTARTS = 10
"""More crashes than the number after which a turn is no longer recovered."""

SETTINGS = {"PERDURE_HISTORY_TOKENS": "1500"}
"""Settings of both servers, the old and the current one: a small context, so that a short conversation is
compacted."""
PATIENT = {"PERDURE_CLIENT_TOOL_TIMEOUT_SECONDS": LONG, "PERDURE_APPROVAL_TIMEOUT_SECONDS": LONG}
IMPATIENT = dict.fromkeys(PATIENT, str(SHORT_SECONDS))

MOVE = "UPDATE providers SET base_url = $1 WHERE base_url = $2"
"""Moves the model to another address, for the release's schema."""


def extract(release: Release, folder: Path) -> Path:
    """Extract the release's code; return the folder to import it from."""
    done = subprocess.run(
        ["git", "archive", release.commit, "src"], cwd=ROOT, capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        tar.extractall(folder, **SAFELY)
    return folder / "src"


class OldServer:
    """The release's server on one database, restarted with the settings of each phase."""

    def __init__(self, release: Release, source: Path, data: Path, database_url: str) -> None:
        self._source, self.data, self.database_url = source, data, database_url
        self._tools = tools_for(release, data.parent / "site").get("PYTHONPATH", "")
        self._server: Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        assert self._server is not None
        return self._server.url

    async def start(self, **settings: str) -> None:
        """Kill the running server and start a new one."""
        await self.kill()
        environment = {
            "PYTHONPATH": f"{self._source}:{self._tools}",
            "PERDURE_DRAIN_SECONDS": "600",
            **SETTINGS,
            **settings,
        }
        self._server = Server(
            self.data, database_url=self.database_url, environment=environment, port=self._port
        )
        await self._server.start()
        self._port = int(self.url.rsplit(":", 1)[1])

    async def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._server is not None:
            await self._server.kill()

    def ask_to_stop(self) -> None:
        """Let it drain: it takes no new work while something is running."""
        assert self._server is not None
        assert self._server._process is not None
        self._server._process.terminate()


@asynccontextmanager
async def building(
    release: Release, source: Path, data: Path, url: str
) -> AsyncIterator[tuple[OldServer, PlayedModel]]:
    """Run an old server and a model that can hold steps back; stop both at the end."""
    old = OldServer(release, source, data, url)
    async with played_model(holds=True) as model:
        try:
            yield old, model
        finally:
            await old.kill()


async def build(release: Release, engine: Engine, source: Path, postgres: PostgresServer) -> None:
    """Build one database."""
    began = time.monotonic()
    url = await postgres.create_database() if engine == "postgres" else ""
    with tempfile.TemporaryDirectory() as folder:
        async with building(release, source, Path(folder) / "data", url) as (old, model):
            await old.start(**PATIENT)
            async with httpx.AsyncClient(base_url=old.url, timeout=30) as http:
                login = await _set_up(http, model)
                async with Place(http, model) as place:
                    facts, logs = await _reach_all(old, place, states_of(release))
                await old.kill()
        pack(archive_of(release, engine), old.data, url, logs)
    states = {each.name: {"says": _words(each), "facts": facts[each.name]} for each in states_of(release)}
    manifest = {
        "release": release.version,
        "commit": release.commit,
        "engine": engine,
        "settings": SETTINGS,
        "login": login,
        "key": KEY,
        "move": {"sql": MOVE, "from": model.url},
        "states": states,
        "sessions": {name: kept.as_json() for name, kept in place.sessions.items()},
    }
    manifest_of(release, engine).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    taken = time.monotonic() - began
    size = archive_of(release, engine).stat().st_size + manifest_of(release, engine).stat().st_size
    print(f"{release.version} on {engine}: {len(place.sessions)} sessions, {size // 1024} KB, {taken:.1f} s")
    if taken > SHORT_SECONDS:
        raise RuntimeError(
            "the build took too long: sessions that should wait at the end have stopped waiting"
        )


def _words(state: State) -> str:
    return " ".join((state.__doc__ or "").split())


async def _set_up(http: httpx.AsyncClient, model: PlayedModel) -> dict[str, str]:
    """Register the model and create the owner's token, which the server requires after its next start; return
    the owner's headers."""
    fields = {"name": "Played", "provider_type": "openai_completions", "base_url": model.url, "api_key": KEY}
    provider = await post(http, "/v1/providers", fields)
    await post(
        http, f"/v1/providers/{provider['id']}/models", {"model_id": "played", "display_name": "Played"}
    )
    token = str((await post(http, "/v1/users/me/tokens", {"name": "owner"}))["token"])
    organization = (await http.get("/v1/orgs")).json()["data"][0]["id"]
    login = {"authorization": f"Bearer {token}", "x-org-id": organization}
    http.headers.update(login)
    return login


async def _reach_all(
    old: OldServer, place: Place, states: list[State]
) -> tuple[dict[str, Json], dict[str, list[Json]]]:
    """Run all phases; return the states' facts, and all logs just before the kill."""
    facts: dict[str, Json] = {}
    for phase in PHASES:
        if phase in {"impatient", "settled"}:
            await old.start(**(IMPATIENT if phase == "impatient" else PATIENT))
        if phase == "draining":
            old.ask_to_stop()
        for state in (each for each in states if each.phase == phase):
            facts[state.name] = await state.reach(place)
        if phase == "recovered":
            await _crash_until_sealed(old, place)
    logs = {}
    for name, kept in place.sessions.items():
        if kept.over != "gone":
            logs[kept.id] = await place.talk(name).events()
            kept.head = len(logs[kept.id])
    return facts, logs


async def _crash_until_sealed(old: OldServer, place: Place) -> None:
    """Kill the server during the model call again and again, until it abandons the turn."""
    for _ in range(RESTARTS):
        before = len(place.model.asked)
        await old.start(**PATIENT)
        sealed = asyncio.create_task(place.talk("sealed").logged_until("turn.sealed"))
        asked = asyncio.create_task(place.model.until_more(before))
        done, pending = await asyncio.wait({sealed, asked}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if sealed in done:
            await sealed
            return
    raise RuntimeError("the turn was not given up")


def main(arguments: list[str]) -> int:
    wanted = arguments[0].removeprefix("v") if len(arguments) == 1 else ""
    release = next((each for each in RELEASES if each.version == wanted), None)
    if release is None:
        print(f"usage: python -m tests.upgrade.build {{{'|'.join('v' + each.version for each in RELEASES)}}}")
        return 2
    with tempfile.TemporaryDirectory() as folder, postgres_server() as postgres:
        source = extract(release, Path(folder))
        for engine in ENGINES:
            asyncio.run(build(release, engine, source, postgres))
    print(f"Run the tests in {SHORT_SECONDS} seconds at the earliest: then nobody waits for people in vain.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
