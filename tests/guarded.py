"""Sessions with guardrails, and a search for what they must keep from everybody.

The scripts of the simulated model are in messages of users, which nobody checks. So they have what is
forbidden in an escaped form only, and it must not be found anywhere in its plain form.
"""

from __future__ import annotations

from typing import Any

import httpx

from perdure.store.postgres.database import open_postgres
from tests.server import Server
from tests.talk import Json, Seen, Talk, new_talk, script

BAD = "violet crow seven"
"""What no check lets pass; three words, so that the simulated model streams it in three pieces."""
BAD_ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in BAD)
PARTS = ("let crow", "crow seven")
"""Parts of it that are long enough not to be anywhere by chance."""
OUTPUT = {"type": "regex", "pattern": "viol[e]t cr[o]w sev[e]n", "id": "birds", "reason_code": "bird_name"}
"""The check, in a form that has none of its parts."""


def hidden(*steps: Json, ask: str = "Please.") -> str:
    """A message with a script for the simulated model, without anything forbidden in plain text."""
    return script(*steps, ask=ask).replace(BAD, BAD_ESCAPED)


async def guarded_talk(
    http: httpx.AsyncClient, *checks: Json, more: tuple[Json, ...] = (), **fields: Any
) -> Talk:
    """A session with these checks."""
    guardrails = {"ref": "guardrails", "config": {"checks": list(checks)}}
    return await new_talk(http, capabilities=[guardrails, *more], **fields)


async def guarded_turn(talk: Talk, *steps: Json, until: str = "session.idled") -> list[Seen]:
    """Play a turn, and return all frames that a follower gets."""
    events = await talk.events()
    async with talk.follow(after_sequence=events[-1]["sequence"] if events else 0) as stream:
        await stream.until("connected")
        await talk.say(hidden(*steps))
        frames = await stream.until(until)
        assert_clean(stream.raw.decode(), "the stream")
    return frames


def of_kind(frames: list[Seen], kind: str) -> list[Json]:
    """The data of the events of this kind."""
    return [frame.data["data"] for frame in frames if frame.kind == kind]


def hits_in(frames: list[Seen]) -> list[tuple[str, str, str, str]]:
    """The check, the action, the part and the reason of all hits."""
    found = of_kind(frames, "guardrail.hit")
    return [(hit["guardrail_id"], hit["action"], hit["part"], hit["reason_code"]) for hit in found]


def assert_clean(text: str, where: str) -> None:
    """Nothing forbidden is in a text."""
    for part in PARTS:
        assert part not in text, f"{where} has {part!r}: {text[max(text.find(part) - 200, 0) :][:400]}"


async def assert_nowhere(server: Server, talk: Talk) -> None:
    """What is forbidden is in no answer of the API, and nowhere in the database or the server's log."""
    for path in ("", "/events?limit=1000", "/messages", "/tasks", "/export", "/tree", "/input-requests"):
        answer = await talk.http.get(talk.path(path))
        if answer.status_code == 200:
            assert_clean(answer.text, path)
    found = await talk.http.get("/v1/sessions", params={"search": "crow"})
    assert_clean(found.text, "the list")
    assert_clean(server.log.read_text(), "the log of the server")
    if server.database_url:
        assert_clean(await _dumped(server.database_url), "the database")
        return
    for path in server.data.glob("perdure.db*"):
        content = path.read_bytes().decode("latin-1")
        assert_clean(content, path.name)


async def _dumped(url: str) -> str:
    database = await open_postgres(url)
    try:

        async def body(tx: Any) -> str:
            names = await tx.all(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
            )
            rows = [await tx.all(f"SELECT t::text FROM {name} t") for (name,) in names]
            return "\n".join(str(text) for table in rows for (text,) in table)

        return await database.read(body)
    finally:
        await database.close()
