"""kill -9 while an answer is held back: the call is made again, and what is blocked stays blocked."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.guarded import BAD, OUTPUT, assert_nowhere, guarded_talk, hidden
from tests.server import Server, use_simulated_model
from tests.talk import kinds_of, text_in


async def test_a_blocked_answer_stays_blocked_whenever_its_server_is_killed(
    database_url: str, tmp_path: Path
) -> None:
    server = Server(tmp_path / "data", database_url=database_url)
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        talk = await guarded_talk(http, OUTPUT)
        words = " ".join(f"word{n}" for n in range(60))
        step = {"text": f"{words} {BAD} and {words}", "thinking": f"Is it {BAD}?", "delay_ms": 15}
        async with talk.follow() as stream:
            await talk.say(hidden(step))
            await stream.until("output.message.delta")
        await server.restart()  # killed before the match
        async with talk.follow() as stream:
            await stream.until("output.message.delta", where=lambda data: "word35" in str(data))
        await server.restart()  # killed around the match
        events = await talk.logged_until("session.idled")
        assert kinds_of(events).count("output.message.replaced") == 1
        (message,) = [each for each in await talk.messages() if each["role"] == "agent"]
        assert text_in(message) == "This answer was withheld because it violates a rule."
        assert "thinking" not in message
        await server.restart()
        assert [each for each in await talk.messages() if each["role"] == "agent"] == [message]
        await assert_nowhere(server, talk)
